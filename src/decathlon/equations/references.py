"""Classical solutions of the test equations: Cole-Hopf quadrature, split-step Fourier, ETDRK4."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]


def burgers_cole_hopf(x: Tensor, t: Tensor, viscosity: float, nodes: int = 100) -> Tensor:
    """Solution of ``u_t + u u_x = viscosity u_xx``, ``u(x, 0) = -sin(pi x)``, ``u(+-1, t) = 0``.

    The Cole-Hopf integrals by Gauss-Hermite quadrature; 100 nodes are exact to rounding for viscosity 0.01/pi.

    Args:
        x, t: coordinates, of one shape, float64.
        nodes: of the quadrature.

    Returns:
        u, of that shape; differentiable.
    """
    if viscosity <= 0:
        raise ValueError(f"viscosity={viscosity} must be positive")
    if x.dtype != torch.float64 or t.dtype != torch.float64:
        raise ValueError(f"the quadrature needs float64 coordinates, not {x.dtype} and {t.dtype}")
    if bool((t < 0).any()):
        raise ValueError("there is no solution before t = 0")
    z, w = (torch.from_numpy(array).to(x) for array in np.polynomial.hermite.hermgauss(nodes))
    y = x[..., None] - 2 * torch.sqrt(viscosity * t)[..., None] * z
    exponent = -torch.cos(math.pi * y) / (2 * math.pi * viscosity)
    # exp(+-50) loses digits: the largest exponent cancels in the quotient.
    weight = w * torch.exp(exponent - exponent.amax(dim=-1, keepdim=True))
    return -(weight * torch.sin(math.pi * y)).sum(-1) / weight.sum(-1)


def schrodinger_split_step(start: Complex, length: float, times: Sequence[float], step: float) -> Complex:
    """Focusing cubic Schroedinger equation ``i h_t + 0.5 h_xx + |h|^2 h = 0`` on a periodic interval.

    Strang splitting in the fourth-order composition of Yoshida (1990).

    Args:
        start: h at time 0 on ``n`` equidistant points, the right end left out.
        length: of the interval.
        times: ascending, from 0 on.
        step: largest time step; each interval is cut in equal steps.

    Returns:
        (len(times), n).

    Raises:
        ValueError: the times do not ascend from 0 on, or the step is not positive.
    """
    _check_times(times, step)
    wave = 2 * np.pi * np.fft.fftfreq(len(start), d=length / len(start))
    cube = 2 ** (1 / 3)
    parts = [1 / (2 - cube), -cube / (2 - cube), 1 / (2 - cube)]
    h, now, found = start.astype(np.complex128), 0.0, []
    for time in times:
        count = max(1, math.ceil((time - now) / step - 1e-9))
        dt = (time - now) / count
        kinetic = [np.exp(-0.5j * wave**2 * dt * part) for part in parts]
        for _ in range(count if time > now else 0):
            for factor, part in zip(kinetic, parts):
                h = h * np.exp(0.5j * np.abs(h) ** 2 * dt * part)
                h = np.fft.ifft(factor * np.fft.fft(h))
                h = h * np.exp(0.5j * np.abs(h) ** 2 * dt * part)
        now = time
        found.append(h)
    return np.array(found)


def kuramoto_sivashinsky_etdrk4(
    start: Array, length: float, times: Sequence[float], step: float, coefficients: tuple[float, float, float]
) -> Array:
    """``u_t + a u u_x + b u_xx + c u_xxxx = 0`` on a periodic interval, with ``coefficients = (a, b, c)``.

    Fourier in space, dealiased by the 2/3 rule; exponential time differencing of fourth order (Cox and Matthews 2002),
    its coefficients by contour integrals (Kassam and Trefethen 2005).

    Args:
        start: u at time 0 on ``n`` equidistant points, the right end left out.
        length: of the interval.
        times: ascending, from 0 on.
        step: largest time step.

    Returns:
        (len(times), n).

    Raises:
        ValueError: the times do not ascend from 0 on, or the step is not positive.
    """
    _check_times(times, step)
    a, b, c = coefficients
    n = len(start)
    wave = 2 * np.pi * np.fft.rfftfreq(n, d=length / n)
    linear = b * wave**2 - c * wave**4
    kept = np.arange(len(wave)) <= n // 3

    def nonlinear(v: Complex) -> Complex:
        return -0.5j * a * wave * kept * np.fft.rfft(np.fft.irfft(v * kept, n) ** 2)

    v, now, found = np.fft.rfft(start), 0.0, []
    last, parts = math.nan, _etdrk4_coefficients(linear, step)
    for time in times:
        count = max(1, math.ceil((time - now) / step - 1e-9))
        dt = (time - now) / count
        if time > now and dt != last:
            last, parts = dt, _etdrk4_coefficients(linear, dt)
        whole, half, q, f1, f2, f3 = parts
        for _ in range(count if time > now else 0):
            n1 = nonlinear(v)
            first = half * v + q * n1
            n2 = nonlinear(first)
            second = half * v + q * n2
            n3 = nonlinear(second)
            third = half * first + q * (2 * n3 - n1)
            v = whole * v + f1 * n1 + 2 * f2 * (n2 + n3) + f3 * nonlinear(third)
        now = time
        found.append(np.fft.irfft(v, n))
    return np.array(found)


def _check_times(times: Sequence[float], step: float) -> None:
    """What would be answered with a state of another time."""
    if not step > 0:
        raise ValueError(f"step={step} must be positive")
    if list(times) != sorted(times) or (len(times) > 0 and times[0] < 0):
        raise ValueError("the times must ascend from 0 on")


def _etdrk4_coefficients(linear: Array, dt: float, points: int = 32) -> tuple[Array, ...]:
    """exp(L dt), exp(L dt/2), and the four weights of ETDRK4, as means over a circle around each L dt."""
    circle = np.exp(1j * np.pi * (np.arange(1, points + 1) - 0.5) / points)
    z = dt * linear[:, None] + circle
    e = np.exp(z)

    def mean(values: Complex) -> Array:
        return dt * values.mean(axis=1).real

    q = mean((np.exp(z / 2) - 1) / z)
    f1 = mean((-4 - z + e * (4 - 3 * z + z**2)) / z**3)
    f2 = mean((2 + z + e * (z - 2)) / z**3)
    f3 = mean((-4 - 3 * z - z**2 + e * (4 - z)) / z**3)
    return np.exp(dt * linear), np.exp(dt * linear / 2), q, f1, f2, f3

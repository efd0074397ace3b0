"""The LightningModule: one method on one market, trained if it trains, and audited."""

import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from decathlon import trained
from decathlon.build import build
from decathlon.errors import ConfigError
from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.audit import audit, clicks_and_payments
from decathlon.tasks.jregnet.compute import small_nets
from decathlon.tasks.jregnet.market import Market, TrainingProfiles
from decathlon.tasks.jregnet.mechanisms import best_welfare, optimal_revenue, rvcg
from decathlon.tasks.jregnet.methods import Method
from decathlon.tasks.jregnet.reports import Record, per_bidder, write_rows
from decathlon.tasks.jregnet.training import Schedule, adam, iterate
from decathlon.tasks.jregnet.units import Units

log = logging.getLogger(__name__)

RUNNER_KEYS = ("trains", "training")


class JointAuctionModule(LightningModule):
    """Trains ``seeds_per_job`` stacked runs of a method and audits each against the exact optimum.

    Manual optimisation: one ``training_step`` is ``chunk`` iterations of the paper's algorithm, each with its own
    batch, misreport search and optimiser step.

    Args:
        method: config of the method: ``class`` and its keyword arguments, ``trains``, ``training``.
        market: keyword arguments of :class:`~.market.Market`.
        seed: stacked run s has seed ``seed * seeds_per_job + s``.
        iterations, batch_size, lr: of the training; ``warmup`` iterations grow the step linearly, then it falls as a
            cosine to ``final_lr`` of itself (1: constant).
        training_profiles: size of a fixed training set, or None for fresh profiles.
        threads: CPU threads of the training; more than one pays for many stacked runs on an idle machine.
        val_profiles, test_profiles: how many profiles are used to select and to judge (ten times as many as select a
            checkpoint choose a reserve).
        regret_profiles: regret is measured on the first so many of them.
        grid: bids on which each bidder's misreport is searched.
        regret_ceiling: a checkpoint is nearly truthful when its mean validation regret is at most this, in the units of
            size one in which networks are trained (the market's money, where values are U[0, 1]).
        selection: among nearly truthful checkpoints, ``revenue`` takes the one that earns most, as the public variants
            do; ``audited`` (ours) first takes off the leak that is usual at its regret, see :func:`expected_leak`.
        figures: whether to draw training curves and allocation maps into the job's folder.
    """

    iteration: Tensor

    def __init__(
        self,
        method: Mapping[str, Any],
        market: Mapping[str, Any],
        seed: int = 0,
        seeds_per_job: int = 1,
        iterations: int = 0,
        batch_size: int = 1,
        lr: float = 0.0,
        warmup: int = 0,
        final_lr: float = 1.0,
        training_profiles: int | None = None,
        chunk: int = 1,
        threads: int = 1,
        val_profiles: int = 1000,
        test_profiles: int = 40_000,
        regret_profiles: int = 2_000,
        grid: int = 101,
        regret_ceiling: float = 3e-4,
        selection: str = "audited",
        figures: bool = True,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if seeds_per_job < 1:
            raise ConfigError(f"seeds_per_job={seeds_per_job} must be at least 1")
        if threads < 1:
            raise ConfigError(f"threads={threads} must be at least 1")
        if grid < 2:
            raise ConfigError(f"grid={grid}: a grid of misreports needs at least 2 points")
        if selection not in ("audited", "revenue"):
            raise ConfigError(f"selection={selection} is unknown; choose audited or revenue")
        self.market = Market(**market)
        self.seeds = [seed * seeds_per_job + place for place in range(seeds_per_job)]
        spec = {key: value for key, value in method.items() if key not in RUNNER_KEYS}
        extra: dict[str, Any] = {}
        if not method["trains"]:
            extra["sample"] = partial(self.market.profiles, "reserve", 10 * val_profiles)
        else:
            extra["graph_input"] = self.market.varies
            if iterations < 1 or lr <= 0:
                raise ConfigError(f"iterations={iterations} and lr={lr} must be positive to train")
            if training_profiles is not None and "search" in method:
                extra["profiles"] = training_profiles
        self.method: Method = build(
            spec, called="method", auction=self.market.auction, prior=self.market.prior, seeds=self.seeds, **extra
        )
        self.cap = Units.of(self.market.prior).cap
        self.schedule, self.chunk = Schedule(iterations, lr, warmup, final_lr), chunk
        self.val_profiles, self.test_profiles = val_profiles, test_profiles
        self.regret_profiles, self.grid, self.regret_ceiling = regret_profiles, grid, regret_ceiling
        self.selection, self.figures, self.threads = selection, figures, threads
        self.register_buffer("iteration", torch.tensor(0))
        self.profiles: TrainingProfiles | None = None
        if self.method.trains:
            self.profiles = TrainingProfiles.of(self.method, self.market, batch_size, training_profiles)
        self.curve: list[dict[str, float]] = []
        self._records: list[Record] = []

    def configure_optimizers(self) -> Any:
        return adam(self.method, self.schedule.lr) if self.method.trains else None

    def on_fit_start(self) -> None:
        """Say which values of a log are so far from the others that training counts them as less."""
        if self.market.log is None or not self.trainer.is_global_zero:
            return
        values, _ = self.market.profiles("train", len(self.market.log.values), 0)
        above = values / self.cap.to(values)
        if float(above.max()) > 1 + 1e-6:
            auction, bidder = divmod(int(above.argmax()), above.shape[1])
            name = [*self.market.log.stores, *self.market.log.brands][bidder]
            log.warning(
                f"WARNING: {int((above > 1 + 1e-6).sum())} values of the log lie far above their bidder's others; in "
                f"training {float(values[auction, bidder]):g} of {name}, the farthest, counts as "
                f"{float(self.cap[bidder]):g}"
            )

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Up to ``chunk`` iterations; one where several devices train, which average their gradients."""
        several = self.trainer.world_size > 1
        assert self.profiles is not None
        optimizer: Any = self.optimizers()
        device, dtype = self.iteration.device, next(self.method.parameters()).dtype
        logs: dict[str, Tensor] = {}
        with small_nets(self.threads):
            for _ in range(1 if several else self.chunk):
                step = int(self.iteration)
                if step >= self.schedule.iterations:
                    break
                drawn = self.profiles.batch(step, self.global_rank, self.trainer.world_size).to(device, dtype)
                logs = iterate(self.method, drawn, optimizer, self.schedule, step, self.manual_backward)
                self.iteration += 1
        for name, value in logs.items():
            self.log(f"train/{name}", value.mean(), sync_dist=several)

    def on_validation_epoch_start(self) -> None:
        self._records = []

    def on_test_epoch_start(self) -> None:
        self._records = []

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._records.append(self._record(int(batch), "val", self.val_profiles))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._records.append(self._record(int(batch), "test", self.test_profiles))

    @torch.no_grad()
    def _record(self, place: int, split: str, samples: int) -> Record:
        """Audit run ``place`` on the profiles of a split, beside the references on the same profiles."""
        market, method = self.market, self.method
        values, present = market.profiles(split, samples, self.seeds[place])
        values = values.to(self.iteration.device)
        if split == "val":  # what training saw: one outlier must not choose the checkpoint
            values = values.minimum(self.cap.to(values))
        present = None if present is None else present.to(values.device)
        own_values, own_present = method.own(values, present)
        with small_nets(self.threads):
            report = audit(
                method.mechanism(place), method.auction, own_values, method.prior, own_present,
                self.regret_profiles, self.grid, beyond_support=market.log is not None,
            )  # fmt: skip
            metrics = report.scalars()
            rival = float(clicks_and_payments(rvcg, market.auction, values, present)[1].sum(1).mean())
            store_opt = self._store_opt(values)
            typical = float(own_values.minimum(method.units.cap.to(own_values)).mean())
            metrics["expected_leak"] = expected_leak(report.regret_sum, typical, market.auction)
            metrics |= {"rvcg": rival, "store_opt": store_opt, "revenue_over_rvcg": _ratio(report.revenue, rival)}
            if method.stores_only and market.prior.independent:  # judged against the joint optimum
                opt = float(optimal_revenue(market.auction, values, market.prior, present).mean())
                gaps = {"gap": report.revenue, "alloc_gap": report.virtual_welfare}
                upper = opt + 2 * report.ic_excess_error
                metrics |= {
                    "opt": opt,
                    "opt_upper": upper,
                    **{name: _ratio(value, opt) - 1 for name, value in gaps.items()},
                }
            if method.trains:
                capped = values.minimum(self.cap.to(values))
                welfare = best_welfare(market.auction, capped, present).mean()
                metrics["collapsed"] = float(collapsed(report.revenue, rival, float(welfare)))
        return Record(self.seeds[place], metrics, per_bidder(self.seeds[place], method, report, market))

    def _store_opt(self, values: Tensor) -> float:
        """The optimum among the stores alone; nan where it is none, or there are no stores."""
        market, count = self.market, self.market.auction.stores
        if not count:
            return float("nan")
        stores = market.prior.select(slice(0, count))
        revenue = float(optimal_revenue(market.auction.traditional(), values[:, :count], stores).mean())
        return revenue if stores.independent else float("nan")

    def on_validation_epoch_end(self) -> None:
        means = self._log_means("val")
        # Fresh validation profiles decide, never the test set: the best revenue among nearly truthful states.
        revenue = means["revenue"] - (means["expected_leak"] if self.selection == "audited" else 0.0)
        near = means["regret"] <= self.regret_ceiling * self.method.units.scale
        self.log("val/selection", revenue if near else -means["regret"], sync_dist=True)
        if not self.trainer.sanity_checking:
            self.curve.append({"iteration": float(self.iteration), **means})
            if int(self.iteration) >= self.schedule.iterations:
                self._warn("validation", means)

    def on_test_epoch_end(self) -> None:
        self._warn("test", self._log_means("test"))
        folder = self.trainer.default_root_dir
        if self.trainer.is_global_zero:
            write_rows(folder, self._records)
            if self.figures and self.method.trains:
                from decathlon.tasks.jregnet.figures import draw_job

                draw_job(folder, self.market, self.method, self.curve)

    def export(self, folder: Path) -> None:
        """Keep the weights, and a log's values; see ``decathlon.tasks.jregnet.loading``."""
        log = self.market.log
        kept = None if log is None else {
            "stores": list(log.stores), "brands": list(log.brands), "bundles": [list(pair) for pair in log.bundles],
            "values": log.values, "seen": log.seen,
        }  # fmt: skip
        trained.save(folder, {"weights": dict(self.state_dict()), "log": kept})

    def _warn(self, what: str, means: Mapping[str, float]) -> None:
        """Say that the training found nothing better than (almost) not to sell."""
        runs, lost = len(self._records), round(means.get("collapsed", 0.0) * len(self._records))
        if lost and self.trainer.is_global_zero:
            of = f"{lost} of {runs} runs collapsed" if runs > 1 else "the training collapsed"
            log.warning(
                f"WARNING: {of} to a mechanism that hardly sells: {what} revenue {means['revenue']:.3g}, RVCG's is "
                f"{means['rvcg']:.3g}; try another seed, more iterations, or a lower method.lagrangian.end"
            )

    def _log_means(self, split: str) -> dict[str, float]:
        """Log means over the stacked runs, and standard deviations when there are several."""
        means = {}
        for name in self._records[0].metrics:
            column = torch.tensor([record.metrics[name] for record in self._records], dtype=torch.float64)
            means[name] = float(column.mean())
            self.log(f"{split}/{name}", means[name], sync_dist=True)
            if len(column) > 1:
                self.log(f"{split}/{name}_std", float(column.std()), sync_dist=True)
        return means

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["curve"] = [dict(point) for point in self.curve]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = [dict(point) for point in checkpoint["curve"]]


def expected_leak(regret_sum: float, mean_value: float, auction: JointAuction) -> float:
    """Revenue that is usually there only because bidders do not react: 1.1 sqrt(2 E[v] a_1 regret_sum).

    Measured on learnt mechanisms with values U[0, 1], where 2 E[v] = 1; a rule of thumb elsewhere.
    """
    return 1.1 * math.sqrt(2 * mean_value * float(auction.click_rates[0]) * regret_sum)


def collapsed(revenue: float, rvcg: float, welfare: float) -> bool:
    """Whether a learnt mechanism hardly sells: below 5 % of RVCG's revenue, or 1 % of the best welfare.

    The second bound is for markets where RVCG itself earns nothing, as with one bundle, or as many slots as bundles.
    """
    return revenue < max(0.05 * rvcg, 0.01 * welfare)


def _ratio(achieved: float, reference: float) -> float:
    return achieved / reference if reference > 0 else float("nan")

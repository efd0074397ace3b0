"""The embedded world: facts that compose, texts about them, and a small model that has learnt them."""

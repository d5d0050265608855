def rollout() -> None:
    """x"""

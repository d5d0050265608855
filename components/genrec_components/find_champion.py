"""Step: which version is served now."""

from genrec_components.base import component


@component
def find_champion(model_name: str) -> str:
    """Version behind the alias ``champion``, or an empty string. Never cached: aliases move."""
    from genrec_components.base import step
    from genrec_model.registry.models import CHAMPION, version_of

    with step("find_champion"):
        return version_of(model_name, CHAMPION) or ""

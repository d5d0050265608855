"""Every error that this project raises on purpose.

::

    GenrecError
    ├── UserError               somebody can mend it: exit code 2, HTTP 4xx
    │   ├── ConfigError         an option or a setting is wrong
    │   ├── DataError           the interaction data cannot be used
    │   ├── ValidationFailed    the data gate refused the data
    │   ├── GateFailed          a quality or parity gate refused the model
    │   ├── ArtifactError       a model artifact is missing, broken or of another version
    │   ├── RegistryError       the model registry lacks what was asked for
    │   └── RequestError        a prediction request is wrong (names the field)
    ├── EngineError             an inference engine could not do its work: HTTP 503
    │   ├── EngineUnavailable   the engine asked for cannot run on this machine
    │   └── EngineRestarting    the engine is being started, the first time or again
    ├── StoreError              the store of users' events could not do its work: HTTP 503
    └── Overloaded              the server takes no more for now: HTTP 429 or 503

A message is one line: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "EngineError",
    "EngineRestarting",
    "EngineUnavailable",
    "GateFailed",
    "GenrecError",
    "Overloaded",
    "RegistryError",
    "RequestError",
    "StoreError",
    "UserError",
    "ValidationFailed",
]


class GenrecError(Exception):
    """Root of the tree."""


class UserError(GenrecError):
    """A mistake that the user can mend."""


class ConfigError(UserError):
    """An option or a setting is wrong."""


class DataError(UserError):
    """The interaction data cannot be used."""


class ValidationFailed(UserError):
    """The data gate refused the data.

    Args:
        failed: names of the failed expectations, as in the report.
    """

    def __init__(self, message: str, failed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.failed = failed


class GateFailed(UserError):
    """A quality or parity gate refused the model."""


class ArtifactError(UserError):
    """A model artifact is missing, broken or of another version."""


class RegistryError(UserError):
    """The model registry lacks what was asked for."""


class RequestError(UserError):
    """A prediction request is wrong.

    Args:
        message: what is wrong and what is allowed.
        field: path of the field, for example ``history[3].item_id``.
        status: HTTP status, 400 to 499.
    """

    def __init__(self, message: str, *, field: str, status: int = 422) -> None:
        super().__init__(f"{field}: {message}")
        self.message = message
        self.field = field
        self.status = status


class EngineError(GenrecError):
    """An inference engine could not do its work."""


class EngineUnavailable(EngineError):
    """The engine asked for cannot run on this machine."""


class EngineRestarting(EngineError):
    """The engine is being started, for the first time or because it died.

    Args:
        message: why.
        retry_after_s: seconds until the next try.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreError(GenrecError):
    """The store of users' events could not do its work."""


class Overloaded(GenrecError):
    """The server takes no more for now.

    Args:
        message: which limit is reached.
        status: HTTP status: 429 to slow down, 503 where it is not the client's pace.
        retry_after_s: seconds after which to try again.
    """

    def __init__(self, message: str, *, status: int, retry_after_s: float) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

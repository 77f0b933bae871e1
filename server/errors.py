"""Errors that keep the server from starting, each with the remedy in its text."""


class ServerError(Exception):
    """Any failure of the launcher that its user can act on."""


class InstallationError(ServerError):
    """The wheel, its Python stub or a shared library that it needs is missing."""


class RepositoryError(ServerError):
    """The model repository has nothing that can be served."""


class VariantError(ServerError):
    """The variant cannot be served by this machine, or by what is installed on it."""


class PortError(ServerError):
    """The port is not free, or the address does not belong to this machine."""


class StartError(ServerError):
    """``tritonserver`` ended, or answered wrongly, before it was ready."""


class AccessError(ServerError):
    """A certificate or key cannot be used, or the server would be open to strangers."""

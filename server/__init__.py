"""Triton without a container: the ``tritonserver`` of a wheel, started, watched and restarted."""

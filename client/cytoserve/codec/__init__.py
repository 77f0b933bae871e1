"""Frame to request, answer to result, and back: pure functions, the same for every transport."""

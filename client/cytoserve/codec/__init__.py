"""Pure functions that encode and decode requests and answers, the same for every transport."""

"""Pure data and rules: paths, routes, groups, cache policy. No I/O, no clock: time is a parameter."""

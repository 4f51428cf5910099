"""Who may publish and subscribe what: keys, claims and their reduction to permissions. Knows no actor and no socket."""

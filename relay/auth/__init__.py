"""Keys, claims, and the permissions they grant. Must never know an actor or a socket."""

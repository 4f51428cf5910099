"""Keys, claims, and the permissions they grant."""

"""PostgreSQL as Django knows it, with one question less for each request."""

"""Pages of the dashboard: each draws what the queries answered, and computes nothing."""

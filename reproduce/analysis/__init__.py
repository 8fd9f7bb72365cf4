"""From results to numbers: tables, statistics, figures."""

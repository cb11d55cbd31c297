"""Benchmarks beside what others use, each runnable as a module and short."""

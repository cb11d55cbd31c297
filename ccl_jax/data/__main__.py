"""python -m ccl_jax.data inspect SET: see ccl_jax/inspect_data.py."""

from ccl_jax.inspect_data import main

main()

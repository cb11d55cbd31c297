"""The paper's comparisons, run, scored and drawn on the synthetic scenes."""

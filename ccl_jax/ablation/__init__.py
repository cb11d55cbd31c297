"""The paper's ablation (table 2, figures 3, 5 and 6): runs, scores, tables, plots."""

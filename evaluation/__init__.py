"""From arrays to judgement: metrics, intervals, error maps, localisation, figures and reports."""

"""From folders of runs to evidence: tables, statistics and one page. Needs no torch."""

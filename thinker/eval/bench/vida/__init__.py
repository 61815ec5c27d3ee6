"""ViDA's benchmark (MIPI challenge, ICCV 2025)."""

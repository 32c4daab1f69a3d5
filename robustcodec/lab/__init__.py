"""The lab: training, export, attacks and hardening; needs robustcodec[lab]."""

"""The loop, its checkpoints, its folder and what it logs. It knows schemes only, never a teacher."""

"""`raftkv chaos`: a real cluster of processes on this machine, tortured while clients record what they see."""

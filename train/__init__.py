"""Training: one loop, one step, and the stages that are run through them."""

import interpreter

interpreter.check()

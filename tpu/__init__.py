"""TPU pods: facts about chips, ahead-of-time fits, launching, supervision."""

import interpreter

interpreter.check()

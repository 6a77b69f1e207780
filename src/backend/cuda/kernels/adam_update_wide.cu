// The fused pass of the optimizer (adam_fused.h) for weights of eight bits and more.
#include "adam_fused.h"

WIDE_CODECS(OPTIMIZER_UPDATE)

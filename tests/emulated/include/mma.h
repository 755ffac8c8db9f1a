// As NVIDIA's: the tensor cores' types lie in crt/, which is another package there.
#pragma once
#include "crt/mma.h"

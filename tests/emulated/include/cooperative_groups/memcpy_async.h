// Copies of groups; see cuda/barrier.
#pragma once
#include "../cuda/barrier"

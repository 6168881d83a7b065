// Which variant of the kernels is used.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace prunella {

// Names of the variants that this machine can run, the fastest first.
std::vector<std::string> variants();

const Kernels& current();

// Use a variant from now on; false if this machine cannot run it.
bool choose(const std::string& name);

}  // namespace prunella

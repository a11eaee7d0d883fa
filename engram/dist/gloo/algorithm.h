// A stand-in for a header of Gloo that libtorch's wheel lacks (docs/dependencies.md): nothing of it is used.
#pragma once

#include "kernels/rope.h"

#include "core/error.h"

namespace samba::op {

void Rope::check() const {
  if (heads < 1 || x.cols % (2 * heads) != 0)
    fail("rope: expected columns for ", heads, " heads of an even width, found ", shape_of(x));
  if (!(base >= 1)) fail("rope: expected a base of at least 1, found ", base);
  expect_shape("rope: x", x, batch.tokens, x.cols, x.dtype);
}

}  // namespace samba::op

#include "kernels/rope.h"

#include "core/error.h"

namespace samba::op {

void Rope::check() const {
  if (heads < 1 || x.cols % (2 * heads) != 0)
    fail("rope: expected columns for ", heads, " heads of an even width, found ", shape_of(x));
  if (!(base >= 1)) fail("rope: expected a base of at least 1, found ", base);
  if (group < 1 || shift < 0)
    fail("rope: expected a group of at least 1 and a shift of at least 0, found ", group, " and ",
         shift);
  expect_shape("rope: x", x, batch.tokens, x.cols, x.dtype);
}

}  // namespace samba::op

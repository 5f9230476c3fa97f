#pragma once

#include <string>
#include <string_view>

namespace samba {

/// Any bytes as text of HTML and XML, in an element or an attribute in quotes: markup characters
/// are escaped, control characters other than tab and line feed become their visible pictures
/// (U+2400 on), what is no UTF-8 or no XML character becomes U+FFFD.
std::string escaped(std::string_view bytes);

/// A number with `decimals` behind the point and no exponent, whatever the locale; "not a number",
/// "∞" and "−∞" for the rest.
std::string fixed(double value, int decimals);

/// A finite number for an attribute: the same without needless zeros.
std::string coordinate(double value, int decimals = 1);

}  // namespace samba

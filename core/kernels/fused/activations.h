// SPDX-License-Identifier: MIT
#pragma once

// Exponential, sigmoid and hyperbolic tangent over a vector V. Only operations that IEEE 754 rounds in one way are used
// (so a true division, no reciprocal estimate), in one order: the bits are the same on every machine and at every width.
// Internal linkage: see panel.h.
namespace lstm::core::fused {
namespace {

template <class V>
struct Activations {
  using Reg = typename V::Reg;

  // e^x = 2^n * (1 + m), |m| < 0.42: x = n*ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite 1980, the remainder taken off in
  // two parts), m = e^r - 1. Where x is NaN m is.
  struct Parts {
    Reg power, m;
  };
  // x in [-87, 88]: 2^n stays a normal number.
  static Parts Split(Reg x) {
    const Reg shift = V::Set(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number, left in the low bits
    const Reg t = V::Fma(x, V::Set(1.44269504088896341f), shift);
    const Reg n = V::Sub(t, shift);
    Reg r = V::Fma(n, V::Set(-0x1.62e4p-1f), x);
    r = V::Fma(n, V::Set(-1.42860682031e-6f), r);
    // m = r + r^2 p(r); p is minimax of degree 4, off by 5e-9 of e^r at most.
    Reg p = V::Fma(r, V::Set(0.00138191685125f), V::Set(0.00836638251458f));
    p = V::Fma(p, r, V::Set(0.0416681089496f));
    p = V::Fma(p, r, V::Set(0.166665450514f));
    p = V::Fma(p, r, V::Set(0.499999957175f));
    return {V::PowerOfTwo(t), V::Fma(V::Mul(r, r), p, r)};
  }

  // 1 + e^-x; beyond 87 the limits, to 2e-38 of their inverse. NaN stays NaN: Min and Max give their second operand.
  static Reg SigmoidPart(Reg x) {
    const Parts e = Split(V::Max(V::Set(-87.0f), V::Min(V::Set(87.0f), V::Sub(V::Set(0.0f), x))));
    return V::Add(V::Set(1.0f), V::Fma(e.power, e.m, e.power));
  }
  static Reg Sigmoid(Reg x) { return V::Div(V::Set(1.0f), SigmoidPart(x)); }

  // Of x <= 88; below -87 the limit.
  static Reg ExpMinusOne(Reg x) {
    const Parts e = Split(V::Max(V::Set(-87.0f), x));
    return V::Fma(e.power, e.m, V::Sub(e.power, V::Set(1.0f)));
  }

  // e^2|x| - 1, up to |x| = 10, where tanh is 1 to the last bit.
  static Reg TanhPart(Reg x) {
    const Reg a = V::Abs(x);
    const Parts e = Split(V::Min(V::Set(20.0f), V::Add(a, a)));
    return V::Fma(e.power, e.m, V::Sub(e.power, V::Set(1.0f)));
  }

  // u / (u + 2), which keeps small x exact to the last bits; the sign of x put back.
  static Reg Tanh(Reg x) {
    const Reg u = TanhPart(x);
    return V::WithSignOf(V::Div(u, V::Add(u, V::Set(2.0f))), x);
  }

  // Sigmoid(a) * Tanh(x) with one division. Where the denominator overflows the result is 0, to 2e-38.
  static Reg SigmoidTimesTanh(Reg a, Reg x) {
    const Reg u = TanhPart(x);
    return V::WithSignOf(V::Div(u, V::Mul(SigmoidPart(a), V::Add(u, V::Set(2.0f)))), x);
  }
};

}  // namespace
}  // namespace lstm::core::fused

// Kernels for training on one core of a CPU. All tensors are dense in the order (image, row, column, channel).
//
// A depthwise convolution works on one image and eight channels at a time: these are copied into a padded plane of
// eight-wide vectors, which stays in the cache, so that neither borders nor the number of channels matter afterwards.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifndef REAL
#define REAL float
#endif

namespace {

constexpr int WIDE = 8;

template <typename T>
struct Vector {
  typedef T type __attribute__((vector_size(WIDE * sizeof(T))));
};
template <typename T>
using V = typename Vector<T>::type;

struct Shape {
  int64_t images, height, width, channels, out_height, out_width, kernel, stride, dilation;
  int64_t padding() const { return dilation * (kernel - 1) / 2; }
};

template <typename T>
V<T> load(const T* from, int64_t count) {
  V<T> value{};
  if (count >= WIDE) {
    std::memcpy(&value, from, sizeof(value));
  } else {
    for (int64_t lane = 0; lane < count; ++lane) value[lane] = from[lane];
  }
  return value;
}

template <typename T>
void store(T* to, const V<T>& value, int64_t count) {
  if (count >= WIDE) {
    std::memcpy(to, &value, sizeof(value));
  } else {
    for (int64_t lane = 0; lane < count; ++lane) to[lane] = value[lane];
  }
}

template <typename T>
V<T> positive(const V<T>& value) {
  return value < T(0) ? V<T>{} : value;  // what is not a number stays: a training that diverges must show
}

// A plane of rows x columns vectors, with a border of zeros that is written once.
template <typename T>
struct Plane {
  int64_t rows, columns;
  std::vector<V<T>> values;
  Plane(int64_t rows, int64_t columns) : rows(rows), columns(columns), values(rows * columns) {}
  V<T>* at(int64_t row, int64_t column) { return values.data() + row * columns + column; }
};

// image: (height, width, channels), from the first of `count` channels on.
template <typename T>
void fill(Plane<T>& plane, const T* image, int64_t height, int64_t width, int64_t channels, int64_t count,
          int64_t border, bool relu) {
  for (int64_t row = 0; row < height; ++row) {
    V<T>* to = plane.at(row + border, border);
    const T* from = image + row * width * channels;
    for (int64_t column = 0; column < width; ++column) {
      V<T> value = load(from + column * channels, count);
      to[column] = relu ? positive<T>(value) : value;
    }
  }
}

struct Tap {
  int64_t offset, weight;
};

// ROWS x COLUMNS outputs at once: the sum over taps of weight * source[tap.offset + output * STRIDE].
template <typename T, int ROWS, int COLUMNS, int STRIDE>
inline void tile(const V<T>* source, int64_t row_step, const Tap* taps, int64_t count, const V<T>* weights,
                 V<T> (&sums)[ROWS][COLUMNS]) {
  for (int row = 0; row < ROWS; ++row)
    for (int column = 0; column < COLUMNS; ++column) sums[row][column] = V<T>{};
  for (int64_t tap = 0; tap < count; ++tap) {
    const V<T> weight = weights[taps[tap].weight];
    const V<T>* from = source + taps[tap].offset;
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
      for (int column = 0; column < COLUMNS; ++column)
        sums[row][column] += weight * from[row * row_step + column * STRIDE];
  }
}

// Every output of a plane; `write(row, column, value)` takes each.
template <typename T, int STRIDE, typename Write>
inline void correlate(const V<T>* source, int64_t row_length, int64_t height, int64_t width, const Tap* taps,
                      int64_t count, const V<T>* weights, Write write) {
  const int64_t row_step = row_length * STRIDE;
  auto block = [&](auto rows, auto columns, int64_t row, int64_t column) {
    constexpr int ROWS = decltype(rows)::value, COLUMNS = decltype(columns)::value;
    V<T> sums[ROWS][COLUMNS];
    tile<T, ROWS, COLUMNS, STRIDE>(source + row * row_step + column * STRIDE, row_step, taps, count, weights, sums);
    for (int r = 0; r < ROWS; ++r)
      for (int c = 0; c < COLUMNS; ++c) write(row + r, column + c, sums[r][c]);
  };
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  using Four = std::integral_constant<int, 4>;
  using Eight = std::integral_constant<int, 8>;
  for (int64_t row = 0; row < height;) {
    int64_t column = 0;
    for (; column + 8 <= width; column += 8) block(One{}, Eight{}, row, column);
    if (column == 0 && width >= 4 && row + 2 <= height) {  // small planes: two rows keep the pipeline full
      for (; column + 4 <= width; column += 4) block(Two{}, Four{}, row, column);
      for (; column < width; ++column) block(Two{}, One{}, row, column);
      row += 2;
      continue;
    }
    for (; column + 4 <= width; column += 4) block(One{}, Four{}, row, column);
    for (; column < width; ++column) block(One{}, One{}, row, column);
    ++row;
  }
}

// (channels, taps) to [block of channels][tap].
template <typename T>
std::vector<V<T>> weight_vectors(const T* weights, int64_t taps, int64_t channels) {
  std::vector<V<T>> result((channels + WIDE - 1) / WIDE * taps);
  for (int64_t channel = 0; channel < channels; ++channel)
    for (int64_t tap = 0; tap < taps; ++tap)
      result[channel / WIDE * taps + tap][channel % WIDE] = weights[channel * taps + tap];
  return result;
}

template <typename T>
void forward(const T* x, const T* weights, T* y, const Shape& s, bool relu) {
  const int64_t border = s.padding(), columns = s.width + 2 * border, count = s.kernel * s.kernel;
  Plane<T> plane(s.height + 2 * border, columns);
  std::vector<Tap> taps;
  for (int64_t tap = 0; tap < count; ++tap)
    taps.push_back({(tap / s.kernel * columns + tap % s.kernel) * s.dilation, tap});
  const auto vectors = weight_vectors(weights, count, s.channels);
  for (int64_t image = 0; image < s.images; ++image)  // all channels of an image while its lines are in the cache
    for (int64_t first = 0; first < s.channels; first += WIDE) {
      const int64_t lanes = std::min<int64_t>(WIDE, s.channels - first);
      fill(plane, x + image * s.height * s.width * s.channels + first, s.height, s.width, s.channels, lanes, border,
           relu);
      T* to = y + image * s.out_height * s.out_width * s.channels + first;
      auto write = [&](int64_t row, int64_t column, const V<T>& value) {
        store(to + (row * s.out_width + column) * s.channels, value, lanes);
      };
      const V<T>* block = vectors.data() + first / WIDE * count;
      if (s.stride == 1)
        correlate<T, 1>(plane.at(0, 0), columns, s.out_height, s.out_width, taps.data(), count, block, write);
      else
        correlate<T, 2>(plane.at(0, 0), columns, s.out_height, s.out_width, taps.data(), count, block, write);
    }
}

// sums[ky * KERNEL + kx] += sum over outputs of g * x, for ROWS rows of taps from `ky` on.
template <typename T, int KERNEL, int ROWS, int STRIDE, int DILATION>
inline void weight_rows(const Plane<T>& x, const Plane<T>& g, int64_t g_border, const Shape& s, int64_t ky,
                        V<T>* sums) {
  V<T> part[ROWS][KERNEL];
  for (int r = 0; r < ROWS; ++r)
    for (int k = 0; k < KERNEL; ++k) part[r][k] = V<T>{};
  const int64_t row_step = x.columns * DILATION;
  for (int64_t row = 0; row < s.out_height; ++row) {
    const V<T>* gradient = g.values.data() + (row + g_border) * g.columns + g_border;
    const V<T>* from = x.values.data() + (row * STRIDE + ky * DILATION) * x.columns;
    for (int64_t column = 0; column < s.out_width; ++column) {
      const V<T> value = gradient[column];
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int k = 0; k < KERNEL; ++k) part[r][k] += value * from[r * row_step + column * STRIDE + k * DILATION];
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int k = 0; k < KERNEL; ++k) sums[(ky + r) * KERNEL + k] += part[r][k];
}

template <typename T, int STRIDE, int DILATION>
void weight_gradient(const Plane<T>& x, const Plane<T>& g, int64_t g_border, const Shape& s, V<T>* sums) {
  if (s.kernel == 3) {
    weight_rows<T, 3, 3, STRIDE, DILATION>(x, g, g_border, s, 0, sums);
  } else if (s.kernel == 5) {
    weight_rows<T, 5, 2, STRIDE, DILATION>(x, g, g_border, s, 0, sums);
    weight_rows<T, 5, 2, STRIDE, DILATION>(x, g, g_border, s, 2, sums);
    weight_rows<T, 5, 1, STRIDE, DILATION>(x, g, g_border, s, 4, sums);
  } else {
    for (int64_t ky = 0; ky < 7; ++ky) weight_rows<T, 7, 1, STRIDE, DILATION>(x, g, g_border, s, ky, sums);
  }
}

// gx may be null. The gradients of x for each phase (row, column modulo stride) are an ordinary correlation of g with
// every stride-th tap: g is read backwards, hence the negative offsets into its border.
template <typename T>
void backward(const T* x, const T* weights, const T* g, T* gx, T* gw, const Shape& s, bool relu) {
  const int64_t border = s.padding(), count = s.kernel * s.kernel, columns = s.width + 2 * border;
  const int64_t reach = (s.kernel - 1) * s.dilation / s.stride;  // how far back into g
  const int64_t padded_height = s.height + 2 * border;
  Plane<T> plane(padded_height, columns);
  Plane<T> gradient(s.out_height + 2 * reach + 2, s.out_width + 2 * reach + 2);
  struct Phase {
    std::vector<Tap> taps;
    int64_t first_row, first_column, rows, columns;
  };
  std::vector<Phase> phases;
  for (int64_t py = 0; py < s.stride; ++py)
    for (int64_t px = 0; px < s.stride; ++px) {
      // Rows of x in this phase: padded row = border + row is py modulo stride.
      Phase phase;
      phase.first_row = ((py - border) % s.stride + s.stride) % s.stride;
      phase.first_column = ((px - border) % s.stride + s.stride) % s.stride;
      phase.rows = phase.first_row < s.height ? (s.height - phase.first_row - 1) / s.stride + 1 : 0;
      phase.columns = phase.first_column < s.width ? (s.width - phase.first_column - 1) / s.stride + 1 : 0;
      const int64_t top = (phase.first_row + border - py) / s.stride;
      const int64_t left = (phase.first_column + border - px) / s.stride;
      for (int64_t tap = 0; tap < count; ++tap) {
        const int64_t dy = tap / s.kernel * s.dilation, dx = tap % s.kernel * s.dilation;
        if (dy % s.stride != py || dx % s.stride != px) continue;
        const int64_t up = (dy - py) / s.stride, back = (dx - px) / s.stride;
        phase.taps.push_back({(reach + top - up) * gradient.columns + reach + left - back, tap});
      }
      phases.push_back(phase);
    }
  const auto vectors = weight_vectors(weights, count, s.channels);
  std::vector<V<T>> sums(vectors.size());
  for (int64_t image = 0; image < s.images; ++image)
    for (int64_t first = 0; first < s.channels; first += WIDE) {
      const int64_t lanes = std::min<int64_t>(WIDE, s.channels - first), block = first / WIDE * count;
      const int64_t start = image * s.height * s.width * s.channels + first;
      fill(plane, x + start, s.height, s.width, s.channels, lanes, border, relu);
      fill(gradient, g + image * s.out_height * s.out_width * s.channels + first, s.out_height, s.out_width,
           s.channels, lanes, reach, false);
      if (s.stride == 1 && s.dilation == 1)
        weight_gradient<T, 1, 1>(plane, gradient, reach, s, sums.data() + block);
      else if (s.stride == 1)
        weight_gradient<T, 1, 2>(plane, gradient, reach, s, sums.data() + block);
      else if (s.dilation == 1)
        weight_gradient<T, 2, 1>(plane, gradient, reach, s, sums.data() + block);
      else
        weight_gradient<T, 2, 2>(plane, gradient, reach, s, sums.data() + block);
      if (gx == nullptr) continue;
      for (const Phase& phase : phases) {
        auto write = [&](int64_t row, int64_t column, V<T> value) {
          const int64_t y = phase.first_row + row * s.stride, z = phase.first_column + column * s.stride;
          if (relu) value = *plane.at(y + border, z + border) <= T(0) ? V<T>{} : value;
          store(gx + start + (y * s.width + z) * s.channels, value, lanes);
        };
        correlate<T, 1>(gradient.at(0, 0), gradient.columns, phase.rows, phase.columns, phase.taps.data(),
                        static_cast<int64_t>(phase.taps.size()), vectors.data() + block, write);
      }
    }
  for (int64_t channel = 0; channel < s.channels; ++channel)
    for (int64_t tap = 0; tap < count; ++tap)
      gw[channel * count + tap] = sums[channel / WIDE * count + tap][channel % WIDE];
}

// Batch norm over (pixels, channels), with max(0, min(ceiling, .)) after it where ceiling > 0.
//
// Few channels would leave each sum waiting for itself: several pixels are taken as one with more channels instead.
struct Rows {
  int64_t count, channels, together, width;
  Rows(int64_t pixels, int64_t channels) : channels(channels), together(1) {
    while (channels * together < 64 && pixels % (together * 2) == 0) together *= 2;
    count = pixels / together;
    width = channels * together;
  }
  template <typename T>
  std::vector<T> repeat(const T* values) const {
    std::vector<T> result;
    for (int64_t time = 0; time < together; ++time) result.insert(result.end(), values, values + channels);
    return result;
  }
};

// Two sums over all pixels for each channel: term(row, column, first, second) adds to both. Rounding stays that of
// short sums: every so many rows they are added up in double precision.
template <typename T, typename Term>
void two_sums(const Rows& rows, std::vector<double>& first, std::vector<double>& second, Term term) {
  constexpr int64_t BLOCK = 64;
  std::vector<T> a(rows.width), b(rows.width);
  first.assign(rows.channels, 0.0);
  second.assign(rows.channels, 0.0);
  for (int64_t start = 0; start < rows.count; start += BLOCK) {
    std::fill(a.begin(), a.end(), T(0));
    std::fill(b.begin(), b.end(), T(0));
    const int64_t end = std::min(rows.count, start + BLOCK);
    for (int64_t row = start; row < end; ++row) term(row * rows.width, a.data(), b.data());
    for (int64_t column = 0; column < rows.width; ++column) {
      first[column % rows.channels] += a[column];
      second[column % rows.channels] += b[column];
    }
  }
}

}  // namespace

extern "C" {

void depthwise_forward(const REAL* x, const REAL* weights, REAL* y, const int64_t* shape, int relu) {
  Shape s;
  std::memcpy(&s, shape, sizeof(s));
  forward(x, weights, y, s, relu != 0);
}

void depthwise_backward(const REAL* x, const REAL* weights, const REAL* g, REAL* gx, REAL* gw, const int64_t* shape,
                        int relu) {
  Shape s;
  std::memcpy(&s, shape, sizeof(s));
  backward(x, weights, g, gx, gw, s, relu != 0);
}

// mean and variance (biased) of each channel are written, then y.
void norm_forward(const REAL* x, REAL* y, const REAL* weight, const REAL* bias, REAL* mean, REAL* variance,
                  int64_t pixels, int64_t channels, double epsilon, double ceiling) {
  const Rows rows(pixels, channels);
  const int64_t width = rows.width;
  // About the first pixel, so that a large mean does not eat the digits of the variance.
  const auto origin = rows.repeat(x);
  const REAL* o = origin.data();
  std::vector<double> sum, square;
  two_sums<REAL>(rows, sum, square, [=](int64_t start, REAL* __restrict a, REAL* __restrict b) {
    const REAL* from = x + start;
    for (int64_t column = 0; column < width; ++column) {
      const REAL value = from[column] - o[column];
      a[column] += value;
      b[column] += value * value;
    }
  });
  std::vector<REAL> scale(channels), shift(channels);
  for (int64_t channel = 0; channel < channels; ++channel) {
    const double middle = sum[channel] / pixels;
    const double found = square[channel] / pixels - middle * middle;
    const double spread = found < 0 ? 0 : found;  // what is not a number stays
    mean[channel] = REAL(middle + x[channel]);
    variance[channel] = REAL(spread);
    scale[channel] = REAL(weight[channel] / std::sqrt(spread + epsilon));
    shift[channel] = REAL(bias[channel] - (middle + x[channel]) * scale[channel]);
  }
  const auto scales = rows.repeat(scale.data()), shifts = rows.repeat(shift.data());
  const REAL* a = scales.data();
  const REAL* b = shifts.data();
  const REAL top = REAL(ceiling);
  for (int64_t row = 0; row < rows.count; ++row) {
    const REAL* from = x + row * width;
    REAL* __restrict to = y + row * width;
    if (ceiling > 0)
      for (int64_t column = 0; column < width; ++column) {
        const REAL value = from[column] * a[column] + b[column];
        to[column] = value < 0 ? REAL(0) : value > top ? top : value;
      }
    else
      for (int64_t column = 0; column < width; ++column) to[column] = from[column] * a[column] + b[column];
  }
}

void norm_backward(const REAL* x, const REAL* g, REAL* gx, const REAL* weight, const REAL* bias, const REAL* mean,
                   const REAL* variance, REAL* gweight, REAL* gbias, int64_t pixels, int64_t channels, double epsilon,
                   double ceiling) {
  const Rows rows(pixels, channels);
  const int64_t width = rows.width;
  std::vector<REAL> scale(channels), shift(channels);
  for (int64_t channel = 0; channel < channels; ++channel) {
    scale[channel] = REAL(weight[channel] / std::sqrt(double(variance[channel]) + epsilon));
    shift[channel] = REAL(bias[channel] - double(mean[channel]) * scale[channel]);
  }
  const auto scales = rows.repeat(scale.data()), shifts = rows.repeat(shift.data()), means = rows.repeat(mean);
  const REAL *a = scales.data(), *b = shifts.data(), *m = means.data();
  const REAL top = REAL(ceiling);
  std::vector<double> sum, dot;
  two_sums<REAL>(rows, sum, dot, [=](int64_t start, REAL* __restrict first, REAL* __restrict second) {
    const REAL *from = x + start, *gradient = g + start;
    if (ceiling > 0)
      for (int64_t column = 0; column < width; ++column) {
        const REAL value = from[column] * a[column] + b[column];
        const REAL passed = (value <= 0) | (value >= top) ? REAL(0) : gradient[column];
        first[column] += passed;
        second[column] += passed * (from[column] - m[column]);
      }
    else
      for (int64_t column = 0; column < width; ++column) {
        first[column] += gradient[column];
        second[column] += gradient[column] * (from[column] - m[column]);
      }
  });
  // gx = scale * (g - mean of g - (x - mean) * sum of g (x - mean) / (variance + epsilon) / pixels)
  std::vector<REAL> slope(channels), offset(channels);
  for (int64_t channel = 0; channel < channels; ++channel) {
    const double inverse = 1 / (double(variance[channel]) + epsilon);
    gbias[channel] = REAL(sum[channel]);
    gweight[channel] = REAL(dot[channel] * std::sqrt(inverse));
    const double k = dot[channel] * inverse / pixels * scale[channel];
    slope[channel] = REAL(k);
    offset[channel] = REAL(k * mean[channel] - sum[channel] / pixels * scale[channel]);
  }
  const auto slopes = rows.repeat(slope.data()), offsets = rows.repeat(offset.data());
  const REAL *k = slopes.data(), *c = offsets.data();
  for (int64_t row = 0; row < rows.count; ++row) {
    const REAL *from = x + row * width, *gradient = g + row * width;
    REAL* __restrict to = gx + row * width;
    if (ceiling > 0)
      for (int64_t column = 0; column < width; ++column) {
        const REAL value = from[column] * a[column] + b[column];
        const REAL passed = (value <= 0) | (value >= top) ? REAL(0) : gradient[column];
        to[column] = passed * a[column] - from[column] * k[column] + c[column];
      }
    else
      for (int64_t column = 0; column < width; ++column)
        to[column] = gradient[column] * a[column] - from[column] * k[column] + c[column];
  }
}

// The sum of two or more tensors in one pass.
void total(const REAL* const* terms, int64_t count, REAL* to, int64_t size) {
  constexpr int64_t BLOCK = 2048;
  for (int64_t start = 0; start < size; start += BLOCK) {
    const int64_t end = std::min(size, start + BLOCK);
    for (int64_t term = 0; term + 1 < count; ++term) {
      const REAL* left = term == 0 ? terms[0] : to;
      const REAL* right = terms[term + 1];
      for (int64_t position = start; position < end; ++position) to[position] = left[position] + right[position];
    }
  }
}

}  // extern "C"

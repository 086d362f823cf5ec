// The context coder of FORMAT.md section 5.5: a sparse matrix bit by bit, each bit with a probability that is mixed
// from what its neighbourhood did so far. All arithmetic is on integers, so every machine gets the same bytes.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "coders.h"

namespace bitwright {
namespace {

constexpr int kLimit = 2047;            // of a stretched probability: ln(p / (1 - p)) in 1/256
constexpr int kHalf = 1 << 15;          // a probability of one half, in 1/65536
constexpr int64_t kFirstWeight = 24000;  // in 1/65536, of every input but the first
constexpr int64_t kLargestWeight = 1 << 20;
constexpr int kRate = 14;
constexpr int kMostInputs = 6;

// round(65536 / (1 + exp(-k / 2))) for k = -16 .. 16
constexpr int kKnots[33] = {22,    36,    60,    98,    162,   267,   439,   720,   1179,  1921,  3108,
                            4971,  7812,  11955, 17625, 24743, 32768, 40793, 47911, 53581, 57724, 60565,
                            62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514};

int squash(int64_t stretched) {
  const int s = static_cast<int>(std::clamp<int64_t>(stretched, -kLimit, kLimit));
  const int knot = (s + 2048) >> 7, part = s & 127;
  return (kKnots[knot] * (128 - part) + kKnots[knot + 1] * part + 64) >> 7;
}

// stretch(p): the smallest s with squash(s) >= p.
const std::array<int16_t, 65536>& stretch_table() {
  static const std::array<int16_t, 65536> table = [] {
    std::array<int16_t, 65536> result{};
    int s = -kLimit;
    for (int p = 0; p < 65536; ++p) {
      while (s < kLimit && squash(s) < p) ++s;
      result[p] = static_cast<int16_t>(s);
    }
    return result;
  }();
  return table;
}

struct Count {
  uint32_t all = 0, ones = 0;
  void add(int bit) { ++all, ones += bit; }
};

// Stretched probability after `all` bits of which `ones` were 1, where `prior` (1/65536) counts like `weight` bits.
int estimate(const int16_t* stretch, uint64_t all, uint64_t ones, uint64_t prior, uint64_t weight) {
  return stretch[std::min<uint64_t>(65535, (ones * 65536 + weight * prior) / (all + weight))];
}

// Adds the first input to the weighted differences of the others; the weights learn from every bit.
class Mixer {
 public:
  Mixer() { weights_.fill(kFirstWeight); }
  void begin(int base) { base_ = base, used_ = 0; }
  void add(int stretched) { inputs_[used_++] = stretched - base_; }

  template <typename Coder>
  int code(Coder& coder, int bit) {
    int64_t sum = int64_t{base_} * 65536;
    for (int i = 0; i < used_; ++i) sum += weights_[i] * inputs_[i];
    const int p = squash(sum >> 16);
    bit = coder.code(bit, p);
    const int64_t error = int64_t{bit} * 65536 - p;
    for (int i = 0; i < used_; ++i)
      weights_[i] = std::clamp(weights_[i] + ((error * inputs_[i]) >> kRate), -kLargestWeight, kLargestWeight);
    return bit;
  }

 private:
  std::array<int64_t, kMostInputs> weights_{};
  std::array<int64_t, kMostInputs> inputs_{};
  int base_ = 0, used_ = 0;
};

class Encoder {
 public:
  explicit Encoder(std::vector<uint8_t>& out) : out_(out) {}
  int code(int bit, int p) {
    const uint32_t range = high_ - low_;
    const uint32_t middle = low_ + (range >> 16) * p + (((range & 0xFFFF) * p) >> 16);
    bit ? high_ = middle : low_ = middle + 1;
    for (; (low_ ^ high_) >> 24 == 0; low_ <<= 8, high_ = high_ << 8 | 255) out_.push_back(high_ >> 24);
    return bit;
  }
  // As few bytes as name a number of [low, high] when zeros follow.
  void finish() {
    for (int bytes = 0; bytes <= 4; ++bytes) {
      const uint64_t mask = (uint64_t{1} << (32 - 8 * bytes)) - 1, value = (low_ + mask) & ~mask;
      if (value > high_) continue;
      for (int i = 0; i < bytes; ++i) out_.push_back(static_cast<uint8_t>(value >> (24 - 8 * i)));
      return;
    }
  }

 private:
  std::vector<uint8_t>& out_;
  uint32_t low_ = 0, high_ = 0xFFFFFFFF;
};

class Decoder {
 public:
  Decoder(const uint8_t* data, size_t size) : data_(data), size_(size) {
    for (int i = 0; i < 4; ++i) value_ = value_ << 8 | next();
  }
  int code(int, int p) {
    const uint32_t range = high_ - low_;
    const uint32_t middle = low_ + (range >> 16) * p + (((range & 0xFFFF) * p) >> 16);
    const int bit = value_ <= middle;
    bit ? high_ = middle : low_ = middle + 1;
    for (; (low_ ^ high_) >> 24 == 0; low_ <<= 8, high_ = high_ << 8 | 255) value_ = value_ << 8 | next();
    return bit;
  }
  // A coder that wrote `size` bytes read at most four zeros beyond them.
  bool starved() const { return read_ > size_ + 4; }
  bool finished() const { return read_ >= size_ && !starved(); }

 private:
  uint8_t next() { return read_++ < size_ ? data_[read_ - 1] : 0; }
  const uint8_t* data_;
  size_t size_, read_ = 0;
  uint32_t low_ = 0, high_ = 0xFFFFFFFF, value_ = 0;
};

int sign(int level) { return (level > 0) - (level < 0); }

// Walks over the grid. With an Encoder it reads the levels, with a Decoder it writes them.
class Model {
 public:
  Model(int16_t* grid, const ContextShape& shape)
      : grid_(grid), shape_(shape), stretch_(stretch_table().data()), columns_(shape.length), positives_(shape.length) {
    const uint64_t elements = uint64_t{shape.lines} * shape.length;
    prior_ = elements ? static_cast<int>(std::clamp<uint64_t>(shape.nonzeros * 65536 / elements, 16, 65520)) : kHalf;
    const size_t nodes = shape.magnitude_bits > 0 ? size_t{1} << shape.magnitude_bits : 1;
    node_.resize(nodes), node_sign_.resize(2 * nodes), node_place_.resize(16 * nodes);
  }

  template <typename Coder>
  void line(Coder& coder, size_t r) {
    line_ = r, in_line_ = positive_in_line_ = Count{}, last_sign_ = 0;
    for (size_t c = 0; c < shape_.length; ++c) {
      at_ = c, here_ = grid_ + r * shape_.length + c;
      x_ = shape_.stride ? c % shape_.stride : c;
      const int level = *here_;
      const int nonzero = code_nonzero(coder, level != 0);
      int coded = nonzero;
      if (nonzero && shape_.magnitude_bits >= 0) {
        const int positive = code_sign(coder, level > 0);
        const int magnitude = code_magnitude(coder, std::abs(level) - 1, positive) + 1;
        coded = positive ? magnitude : -magnitude;
        positive_in_line_.add(positive), positives_[c].add(positive), last_sign_ = sign(coded);
      }
      *here_ = static_cast<int16_t>(coded);
      in_line_.add(nonzero), columns_[c] += nonzero;
    }
  }

 private:
  // The level `lines` before and `places` to the left, 0 outside.
  int level(size_t lines, size_t places) const {
    if (lines > line_ || places > at_) return 0;
    return here_[-static_cast<ptrdiff_t>(lines * shape_.length + places)];
  }
  int set(size_t lines, size_t places) const { return level(lines, places) != 0; }
  bool left() const { return x_ > 0; }
  bool right() const { return shape_.stride && x_ + 1 < shape_.stride; }

  template <typename Coder>
  int code_nonzero(Coder& coder, int bit) {
    const size_t w = shape_.stride;
    Count& near = near_[set(0, 1) | set(0, 2) << 1 | set(1, 0) << 2 | set(2, 0) << 3];
    const int before = (left() ? 2 * set(0, 1) : 0) + (x_ > 1 ? set(0, 2) : 0);
    const int above = !w ? 0
                         : 2 * set(0, w) + (left() ? set(0, w + 1) : 0) + (right() ? set(0, w - 1) : 0) + set(0, 2 * w);
    Count& image = image_[before * 8 + above];
    mask_.begin(stretch_[prior_]);
    mask_.add(estimate(stretch_, in_line_.all, in_line_.ones, prior_, 4));
    mask_.add(estimate(stretch_, line_, columns_[at_], prior_, 4));
    mask_.add(estimate(stretch_, near.all, near.ones, prior_, 2));
    mask_.add(estimate(stretch_, image.all, image.ones, prior_, 2));
    const auto [columns, ones] = around();
    mask_.add(estimate(stretch_, uint64_t{columns} * line_, ones, prior_, 4));
    bit = mask_.code(coder, bit);
    near.add(bit), image.add(bit);
    return bit;
  }

  // How many columns are next to this one, and their non-zeros so far.
  std::pair<uint32_t, uint64_t> around() const {
    const size_t w = shape_.stride, c = at_;
    uint32_t columns = 0;
    uint64_t ones = 0;
    const auto take = [&](size_t column) { ++columns, ones += columns_[column]; };
    if (left()) take(c - 1);
    if ((!w || right()) && c + 1 < shape_.length) take(c + 1);
    if (w && c >= w) take(c - w);
    if (w && c + w < shape_.length) take(c + w);
    return {columns, ones};
  }

  template <typename Coder>
  int code_sign(Coder& coder, int bit) {
    const size_t w = shape_.stride;
    const int beside = left() ? sign(level(0, 1)) : 0, above = w ? sign(level(0, w)) : 0;
    const int corners =
        w ? sign((left() ? sign(level(0, w + 1)) : 0) + (right() ? sign(level(0, w - 1)) : 0)) : 0;
    const int far = w ? sign(level(0, 2 * w)) : 0;
    Count& image = sign_image_[(beside + 1) * 9 + (above + 1) * 3 + corners + 1];
    Count& other = sign_other_[(last_sign_ + 1) + (sign(level(1, 0)) + 1) * 3 + (far + 1) * 9];
    const Count& column = positives_[at_];
    signs_.begin(estimate(stretch_, all_signs_.all, all_signs_.ones, kHalf, 2));
    signs_.add(estimate(stretch_, positive_in_line_.all, positive_in_line_.ones, kHalf, 2));
    signs_.add(estimate(stretch_, column.all, column.ones, kHalf, 2));
    signs_.add(estimate(stretch_, image.all, image.ones, kHalf, 2));
    signs_.add(estimate(stretch_, other.all, other.ones, kHalf, 2));
    bit = signs_.code(coder, bit);
    image.add(bit), other.add(bit), all_signs_.add(bit);
    return bit;
  }

  // `shape_.magnitude_bits` bits from the highest, along a binary tree.
  template <typename Coder>
  int code_magnitude(Coder& coder, int magnitude, int positive) {
    const int beside = left() ? std::abs(level(0, 1)) : 0;
    const int above = shape_.stride ? std::abs(level(0, shape_.stride)) : 0;
    const int neighbour = std::min(3, std::max(beside, above));
    const uint32_t ones = columns_[at_];
    const int density = ones < 8 ? 0 : ones < 24 ? 1 : ones < 48 ? 2 : 3;
    size_t node = 1;
    for (int i = shape_.magnitude_bits - 1; i >= 0; --i) {
      Count &plain = node_[node], &with_sign = node_sign_[2 * node + positive];
      Count& with_place = node_place_[16 * node + 4 * neighbour + density];
      magnitudes_.begin(estimate(stretch_, plain.all, plain.ones, kHalf, 2));
      magnitudes_.add(estimate(stretch_, with_sign.all, with_sign.ones, kHalf, 4));
      magnitudes_.add(estimate(stretch_, with_place.all, with_place.ones, kHalf, 4));
      const int bit = magnitudes_.code(coder, magnitude >> i & 1);
      plain.add(bit), with_sign.add(bit), with_place.add(bit);
      node = 2 * node + bit;
    }
    return static_cast<int>(node - (size_t{1} << shape_.magnitude_bits));
  }

  int16_t* grid_;
  const ContextShape& shape_;
  const int16_t* stretch_;
  std::vector<uint32_t> columns_;  // non-zeros so far at each place of a line
  std::vector<Count> positives_;   // and how many of them were positive
  std::vector<Count> node_, node_sign_, node_place_;
  Count near_[16], image_[32], sign_image_[27], sign_other_[27];
  Count in_line_, positive_in_line_, all_signs_;
  Mixer mask_, signs_, magnitudes_;
  int prior_ = 0, last_sign_ = 0;
  size_t line_ = 0, at_ = 0, x_ = 0;
  int16_t* here_ = nullptr;
};

}  // namespace

void context_encode(const int16_t* grid, const ContextShape& shape, std::vector<uint8_t>& out) {
  std::vector<int16_t> copy(grid, grid + shape.lines * shape.length);
  Model model(copy.data(), shape);
  Encoder encoder(out);
  for (size_t r = 0; r < shape.lines; ++r) model.line(encoder, r);
  encoder.finish();
}

const char* context_decode(const uint8_t* data, size_t size, const ContextShape& shape, int16_t* grid) {
  std::fill(grid, grid + shape.lines * shape.length, int16_t{0});
  Model model(grid, shape);
  Decoder decoder(data, size);
  for (size_t r = 0; r < shape.lines; ++r) {
    model.line(decoder, r);
    if (decoder.starved()) return "context payload is too short";
  }
  return decoder.finished() ? nullptr : "context payload has the wrong length";
}

}  // namespace bitwright

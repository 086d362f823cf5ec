// How popcount convolutions cut weights into planes and blocks, and their work into tasks.
//
// With q the bits of an activation and k = sum 2^j s_j, s_j = +-1 stored as bits t_j, sum q s_j = sum t_j - popcount(q
// ^ t_j): what does not depend on the activations goes into the starts of the sums (borders.h), and nothing depends on
// where a pixel is but the taps outside the image.
#include "bit_conv.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "ceil_div.h"
#include "cpu.h"
#include "kernels/code_rows.h"
#include "parallel.h"
#include "thresholds.h"

namespace {

constexpr int64_t kTaskPixels = 1024;     // at most
constexpr int64_t kWorthThread = 20'000;  // steps of 16 channels by 32 bits that take as long as waking a thread


// Of one task. Addresses and the like are computed once, sums are kept of so many pixels that they stay in the first
// cache together with a block of weights.
struct Scratch {
  int32_t sums[BITS_PIXELS * BITS_BLOCK], negative[BITS_PIXELS * BITS_BLOCK];
  const uint32_t* windows[kTaskPixels];
  uint8_t* places[kTaskPixels];
  int32_t classes[kTaskPixels];
};

BitVariant bit_variant(const std::string& name) {
  struct Known {
    Isa least;
    bool worth_it;  // even where nobody asks for it
    BitVariant variant;
  };
  // From the best on.
  const Known known[] = {
#if defined(__x86_64__)
      {Isa::avx512vpopcntdq, true, {"avx512vpopcntdq", bits_avx512vpopcntdq, 32}},
      {Isa::avx512, true, {"avx512", bits_avx512, 4}},
      {Isa::avx2, true, {"avx2", bits_avx2, 4}},
      {Isa::avx2, false, {"plain avx2", bits_plain_avx2, 32}},
#endif
      {Isa::ref, true, {"ref", bits_ref, 32}},
  };
  for (const Known& k : known)
    if (current_isa() >= k.least && (name.empty() ? k.worth_it : name == k.variant.level)) return k.variant;
  throw std::invalid_argument("kernel is '" + name + "', expected the name of one for this level");
}

auto finish_variant() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return bits_finish_avx512;
  if (isa == Isa::avx2) return bits_finish_avx2;
#endif
  return bits_finish_ref;
}

int64_t block_width_at(int64_t group_lanes, int64_t lane) { return std::min<int64_t>(group_lanes - lane, BITS_BLOCK); }

}  // namespace

int64_t BitConvOp::channel_of(int64_t lane) const {
  const int64_t channels = shape_.out_c / shape_.groups, i = lane % group_lanes();
  return i < channels ? lane / group_lanes() * channels + i : -1;
}

std::vector<float> BitConvOp::lane_vector(const std::vector<float>& channels) const {
  if (channels.empty()) return {};
  std::vector<float> lanes(lanes_);
  for (int64_t lane = 0; lane < lanes_; ++lane)
    if (const int64_t channel = channel_of(lane); channel >= 0) lanes[lane] = channels[channel];
  return lanes;
}

BitConvOp::BitConvOp(const Conv2dShape& s, const CodeLayout& x, int low, int step, const int8_t* weights, int padding,
                     const Finish& finish, const std::string& kernel)
    : Operation(finish.input_bytes(code_image_bytes(&x), s.out_h * s.out_w),
                finish.output_bytes(s.out_h * s.out_w)),
      shape_(s),
      x_(x),
      finish_(finish),
      lanes_(s.groups * round_up(s.out_c / s.groups, BITS_UNIT)),
      shift_(step == 2),
      end_(finish_variant()) {
  const int64_t group_c = s.in_c / s.groups, taps = s.kernel_h * s.kernel_w, count = s.out_c * group_c * taps;
  const int least = *std::min_element(weights, weights + count), most = *std::max_element(weights, weights + count);
  int magnitude_bits = 1;
  while (std::max(-least, most) >= 1 << magnitude_bits) ++magnitude_bits;
  variant_ = bit_variant(kernel);
  // Generous: also every intermediate stays below this.
  const int64_t most_m = std::max({std::abs(low), std::abs(low + step * ((1 << x.planes) - 1)), std::abs(padding)});
  if (group_c * taps * 16 * (most_m + step * (int64_t{1} << x.planes)) * 4 > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("sums of " + std::to_string(group_c * taps) + " products may not fit in 32 bits");

  if (!finish.negative.empty()) {
    parts_.push_back(make_part({{1, 1, 0, false}}, BITS_AND, weights, low, step, padding));
    parts_.push_back(make_part({{0, 1, 0, false}}, BITS_AND, weights, low, step, padding));
  } else if (std::all_of(weights, weights + count, [](int k) { return k % 2 != 0; })) {
    std::vector<Plane> planes;
    for (int j = 0; j < magnitude_bits; ++j) planes.push_back({(1 << magnitude_bits) - 1, j + 1, j, false});
    parts_.push_back(make_part(planes, BITS_XOR, weights, low, step, padding));
  } else if (least >= -1 && most <= 1) {
    parts_.push_back(make_part({{1, 1, 0, false}, {0, 1, 0, true}}, BITS_AND, weights, low, step, padding));
  } else {
    std::vector<Plane> planes;
    for (int j = 0; j == 0 || least < -(1 << (j - 1)) || most >= 1 << (least < 0 ? j - 1 : j); ++j)
      planes.push_back({0, j, j, false});
    if (least < 0) planes.back().negative = true;
    parts_.push_back(make_part(planes, BITS_AND, weights, low, step, padding));
  }

  for (auto* v : {&finish_.multiplier, &finish_.negative, &finish_.bias, &finish_.scale, &finish_.shift})
    *v = lane_vector(*v);
  OwnedPrelu& p = finish_.prelu;
  for (auto* v : {&p.scale, &p.shift, &p.slope, &p.after_scale, &p.after_shift}) *v = lane_vector(*v);
  if (!finish_.encode) return;
  for (auto* v : {&finish_.encode->scale, &finish_.encode->shift}) *v = lane_vector(*v);
  place_codes();
  set_limits();
}

// What weight k is worth in the sums of a part: k, or 0 or 1 in those of P and N.
int BitConvOp::value_of(const Part& part, int k) const {
  int value = 0;
  for (const Plane& p : part.planes) {
    const int bit = (k + p.offset) >> p.shift & 1;
    value += (part.form == BITS_XOR ? 2 * bit - 1 : p.negative ? -bit : bit) * (1 << p.significance);
  }
  return value;
}

// Orders the passes over pairs of planes and says with which sign their result counts.
void BitConvOp::order_passes(Part* part) const {
  struct Pair {
    int64_t x, w;
    int significance;
    bool negative;
  };
  std::vector<Pair> pairs;
  for (int64_t i = 0; i < x_.planes; ++i)
    for (size_t j = 0; j < part->planes.size(); ++j)
      pairs.push_back({i, static_cast<int64_t>(j), static_cast<int>(i) + part->planes[j].significance,
                       part->planes[j].negative});
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) {
    return a.significance != b.significance ? a.significance > b.significance : a.negative < b.negative;
  });
  BitSums& s = part->sums;
  for (const Pair& p : pairs) {
    const Pair& before = s.passes ? pairs[s.passes - 1] : p;
    s.pass[s.passes++] = {p.x * code_plane_units(&x_), p.w, before.significance - p.significance,
                          before.negative != p.negative};
  }
  part->negate = (s.form == BITS_XOR) != pairs.back().negative;
}

BitConvOp::Part BitConvOp::make_part(std::vector<Plane> planes, int form, const int8_t* weights, int low, int step,
                                     int padding) const {
  const Conv2dShape& s = shape_;
  const int64_t taps = s.kernel_h * s.kernel_w, group_c = s.in_c / s.groups;
  Part part;
  part.planes = std::move(planes);
  part.form = form;
  part.sums.form = form;
  part.sums.kernel_h = s.kernel_h;
  part.sums.kernel_w = s.kernel_w;
  part.sums.words = code_group_units(&x_);
  part.sums.column_step = s.dilation_w * code_pixel_units(&x_);
  part.sums.row_step = s.dilation_h * code_columns(&x_) * code_pixel_units(&x_);
  order_passes(&part);
  pack(&part, weights);
  if (part.sums.column_step == part.sums.words) {  // taps side by side are one long one
    part.sums.words *= s.kernel_w;
    part.sums.kernel_w = 1;
  }

  std::vector<int32_t> tap_sums(lanes_ * taps);
  std::vector<int32_t> constant(lanes_);  // what the XOR form leaves out
  for (int64_t lane = 0; lane < lanes_; ++lane) {
    const int64_t channel = channel_of(lane);
    if (channel < 0) continue;
    for (int64_t i = 0; i < group_c; ++i)
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int value = value_of(part, weights[(channel * group_c + i) * taps + tap]);
        tap_sums[lane * taps + tap] += value;
        // sum 2^j t_j, since value = sum 2^j (2 t_j - 1)
        const int all = (1 << part.planes.size()) - 1;
        if (part.sums.form == BITS_XOR) constant[lane] += (value + all) / 2 * step * ((1 << x_.planes) - 1);
      }
  }
  Conv2dShape by_lane = s;
  by_lane.out_c = lanes_;
  part.borders = make_borders(by_lane, tap_sums.data(), low, low, padding, lanes_);
  int32_t* start = part.borders.start.data();
  for (int64_t i = 0; i < part.borders.rows * part.borders.columns * lanes_; ++i) start[i] += constant[i % lanes_];
  return part;
}

void BitConvOp::pack(Part* part, const int8_t* weights) const {
  const int64_t taps = shape_.kernel_h * shape_.kernel_w, group_c = shape_.in_c / shape_.groups;
  const int64_t words = part->sums.words;
  const int bits = variant_.part_bits, parts = 32 / bits, size = bits > 8 ? 4 : 1;
  const int64_t planes = static_cast<int64_t>(part->planes.size());
  part->lane_bytes = planes * taps * words * parts * size;
  part->weights = Aligned<uint8_t>(lanes_ * part->lane_bytes + BUFFER_SLACK);
  for (int64_t lane = 0; lane < lanes_; ++lane) {
    const int64_t channel = channel_of(lane), in_group = lane % group_lanes(), block = lane - in_group % BITS_BLOCK;
    if (channel < 0) continue;
    const int64_t width = block_width_at(group_lanes(), in_group / BITS_BLOCK * BITS_BLOCK);
    uint8_t* base = part->weights.data() + block * part->lane_bytes;
    for (int64_t plane = 0; plane < planes; ++plane)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t i = 0; i < group_c; ++i) {
          const Plane& p = part->planes[plane];
          const uint32_t bit = (weights[(channel * group_c + i) * taps + tap] + p.offset) >> p.shift & 1;
          const int64_t at = (((plane * taps + tap) * words + i / 32) * parts + i % 32 / bits) * width + (lane - block);
          if (size == 4)
            reinterpret_cast<uint32_t*>(base)[at] |= bit << i % bits;
          else
            base[at] |= static_cast<uint8_t>(bit << i % bits);
        }
  }
}

// Where codes go within a pixel, and whether a unit's codes are neighbours that nobody else writes beside.
void BitConvOp::place_codes() {
  const CodeLayout& l = finish_.encode->layout;
  const int64_t channels = l.channels / l.groups, units = code_group_units(&l), unit_size = l.planes ? 32 : 1;
  place_.assign(lanes_, -1);
  fill_.assign(lanes_ / BITS_UNIT, 0);
  bool whole = true;
  for (int64_t lane = 0; lane < lanes_; ++lane) {
    const int64_t channel = channel_of(lane);
    if (channel < 0) continue;
    place_[lane] = static_cast<int32_t>(channel / channels * units * unit_size + channel % channels);
    if (lane % BITS_UNIT ? place_[lane] != place_[lane - 1] + 1 : l.planes && place_[lane] % BITS_UNIT != 0)
      whole = false;
    // The last channel of a group of codes is followed by unused ones.
    const int64_t end = place_[lane] + 1, rounded = l.planes ? round_up(end, BITS_UNIT) : end;
    if (channel % channels == channels - 1)
      fill_[lane / BITS_UNIT] = static_cast<uint8_t>((round_up(end, l.planes ? 32 : 4) - rounded) / (l.planes ? 8 : 1));
  }
  if (!whole) fill_.clear();
}

// Where only a sign is wanted, it is read off the passes: sum >= threshold is passes < limit, or the contrary.
void BitConvOp::set_limits() {
  if (finish_.out || finish_.residual || parts_.size() != 1 || finish_.encode->kind != ENCODE_SIGN ||
      finish_.encode->layout.planes != 1)
    return;
  const Part& part = parts_[0];
  const Borders& b = part.borders;
  const int64_t classes = b.rows * b.columns;
  int64_t most = 0;  // of the passes
  for (const Plane& p : part.planes) most += (int64_t{1} << p.significance) * ((1 << x_.planes) - 1);
  most *= (shape_.in_c / shape_.groups * shape_.kernel_h * shape_.kernel_w) << shift_;
  std::vector<int64_t> low(lanes_), high(lanes_);
  for (int64_t lane = 0; lane < lanes_; ++lane) {
    low[lane] = high[lane] = b.start.data()[lane];
    for (int64_t c = 0; c < classes; ++c) {
      low[lane] = std::min<int64_t>(low[lane], b.start.data()[c * lanes_ + lane]);
      high[lane] = std::max<int64_t>(high[lane], b.start.data()[c * lanes_ + lane]);
    }
    low[lane] -= most;
    high[lane] += most;
  }
  SumEpilogue e = finish_.of_sums(nullptr);
  e.encode = finish_.encode->view();
  const auto thresholds = find_thresholds(e, low, high);
  if (thresholds.empty()) return;
  limited_ = true;
  limit_ = Aligned<int32_t>(classes * lanes_);
  flip_.assign(lanes_ / BITS_UNIT, 0);
  for (int64_t lane = 0; lane < lanes_; ++lane) {
    const Threshold& t = thresholds[lane];
    if (t.flip == part.negate) flip_[lane / BITS_UNIT] |= static_cast<uint16_t>(1u << lane % BITS_UNIT);
    for (int64_t c = 0; c < classes; ++c) {
      // start - (passes << shift) >= at, or, to be inverted, start + (passes << shift) < at
      const int64_t start = b.start.data()[c * lanes_ + lane], room = part.negate ? start - t.at : t.at - start - 1;
      limit_.data()[c * lanes_ + lane] = static_cast<int32_t>(std::clamp<int64_t>(
          (room >> shift_) + 1, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()));
    }
  }
}

std::string BitConvOp::kernel() const { return std::string("bits ") + variant_.level; }

int64_t BitConvOp::weight_bytes() const {
  int64_t bytes = 0;
  for (const Part& p : parts_) bytes += lanes_ * p.lane_bytes;
  return bytes;
}

BitFinish BitConvOp::finish_view(const float* residual, void* const* outputs) const {
  BitFinish f = {};
  f.e = finish_.view(residual, outputs);
  f.channels = shape_.out_c;
  f.shift = shift_;
  f.negate = parts_[0].negate;
  f.start = parts_[0].borders.start.data();
  if (parts_.size() > 1) f.negative = parts_[1].borders.start.data();
  if (limited_) {
    f.limit = limit_.data();
    f.flip = flip_.data();
  }
  if (finish_.encode) f.place = place_.data();
  if (!fill_.empty()) f.fill = fill_.data();
  return f;
}

struct BitConvOp::Task {
  int64_t pixel0, pixels, block0, block1;  // blocks counted over all groups
};

void BitConvOp::run_task(const Task& task, const void* x, const BitFinish& finish, int64_t out_image) const {
  const Conv2dShape& s = shape_;
  const CodeLayout* codes = finish.e.codes ? &finish.e.encode.layout : nullptr;
  auto* scratch = static_cast<Scratch*>(thread_scratch(sizeof(Scratch)));
  const Borders& b = parts_[0].borders;
  const int64_t window_step = s.stride_w * code_pixel_units(&x_);
  const int64_t code_bytes = codes ? (codes->planes ? 4 : 1) * code_pixel_units(codes) : 0;
  for (int64_t i = 0; i < task.pixels;) {  // a row at a time
    const int64_t row = (task.pixel0 + i) / s.out_w, image = row / s.out_h, oy = row % s.out_h;
    const int64_t ox0 = (task.pixel0 + i) % s.out_w, count = std::min(s.out_w - ox0, task.pixels - i);
    const auto* words =
        reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(x) + image * code_image_bytes(&x_));
    const uint32_t* window = words + code_pixel(&x_, oy * s.stride_h - s.pad_h, ox0 * s.stride_w - s.pad_w);
    const int32_t* classes = b.column_class.data() + ox0;
    const auto first_class = static_cast<int32_t>(b.row_class[oy] * b.columns);
    for (int64_t n = 0; n < count; ++n) {
      scratch->windows[i + n] = window + n * window_step;
      scratch->classes[i + n] = (first_class + classes[n]) * static_cast<int32_t>(lanes_);
    }
    if (codes) {
      auto* result = static_cast<uint8_t*>(finish.e.codes) + image * out_image;
      uint8_t* place = result + (codes->planes ? 4 : 1) * code_pixel(codes, oy, ox0);
      if (ox0 == 0 && task.block0 == 0) clear_rows(codes, result, oy, oy + 1, 0);
      if (!finish.fill)
        for (int64_t n = 0; n < std::max<int64_t>(codes->planes, 1); ++n)
          memset(place + n * 4 * code_plane_units(codes), 0, count * code_bytes);
      for (int64_t n = 0; n < count; ++n) scratch->places[i + n] = place + n * code_bytes;
    }
    i += count;
  }

  const int64_t channels = s.out_c / s.groups, blocks = ceil_div(group_lanes(), BITS_BLOCK);
  for (int64_t block = task.block0; block < task.block1; ++block) {
    const int64_t group = block / blocks, in_group = block % blocks * BITS_BLOCK;
    const int64_t lane = group * group_lanes() + in_group;
    const int64_t width = block_width_at(group_lanes(), in_group);
    for (int64_t i = 0, pixels; i < task.pixels; i += pixels) {
      // Of about one size.
      pixels = ceil_div(task.pixels - i, ceil_div(task.pixels - i, BITS_PIXELS));
      int32_t* into = scratch->sums;
      for (const Part& p : parts_) {
        BitSums of_group = p.sums;
        for (int64_t n = 0; n < of_group.passes; ++n) of_group.pass[n].x += group * code_group_units(&x_);
        const uint8_t* weights = p.weights.data() + p.lane_bytes * lane;
        variant_.sums(&of_group, scratch->windows + i, pixels, weights, width, into);
        into = scratch->negative;
      }
      const BitFinishTask t = {scratch->sums,      parts_.size() > 1 ? scratch->negative : nullptr,
                               scratch->classes + i, scratch->places + i,
                               task.pixel0 + i,      pixels,
                               lane,                 width,
                               group * channels + in_group, std::min(channels - in_group, width)};
      end_(&finish, &t);
    }
  }
}

void BitConvOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const Conv2dShape& s = shape_;
  const BitFinish finish = finish_view(finish_.residual ? static_cast<const float*>(inputs[1]) : nullptr, outputs);
  const int64_t out_image = finish_.encode ? code_image_bytes(&finish_.encode->layout) : 0;
  const int64_t pixels = batch * s.out_h * s.out_w, blocks = s.groups * ceil_div(group_lanes(), BITS_BLOCK);
  int64_t steps = 0;  // of 16 channels by one word
  for (const Part& p : parts_) steps += pixels * lanes_ / BITS_UNIT * p.sums.passes * bits_steps(&p.sums);
  threads = static_cast<int>(std::clamp<int64_t>(steps / kWorthThread, 1, threads));
  // Tasks have whole chunks of pixels, which are of about one size, and as many for every thread.
  const int64_t chunks = round_up(ceil_div(pixels, BITS_PIXELS), threads), least = ceil_div(pixels, kTaskPixels);
  const int64_t wanted = threads > 1 ? 4 * int64_t{threads} : 1;
  const int64_t cuts = std::clamp(wanted, least, std::max(least, chunks));
  // Units that straddle words are put together by one task.
  const bool divisible = !finish.e.codes || finish.fill;
  const int64_t parts = divisible ? std::clamp<int64_t>(ceil_div(wanted, std::max<int64_t>(cuts, 1)), 1, blocks) : 1;
  const auto first_pixel = [&](int64_t cut) { return pixels * (chunks * cut / cuts) / chunks; };
  parallel_for(cuts * parts, threads, [&](int64_t index) {
    const int64_t part = index % parts, cut = index / parts, pixel0 = first_pixel(cut);
    const Task task = {pixel0, first_pixel(cut + 1) - pixel0, blocks * part / parts, blocks * (part + 1) / parts};
    run_task(task, inputs[0], finish, out_image);
  });
}

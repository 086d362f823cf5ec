// Packs int8 weights, finds where sums start, and cuts calls into tasks.
#include "byte_conv.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "ceil_div.h"
#include "cpu.h"
#include "parallel.h"
#include "thresholds.h"

namespace {

// Below this many multiplications a call takes less time than waking a thread.
constexpr int64_t kWorthThread = 800'000;
// Fewer weights than this stay in the second-level cache, or nearly.
constexpr int64_t kWorthPacking = 4 << 20;
// Images of one output pixel per task: their inputs stay in the second-level cache while the weights pass over them.
constexpr int64_t kSamples = BYTE_IMAGES;

struct Variant {
  const char* name;
  void (*run)(BYTES_ARGUMENTS);
  int word_codes;     // 0: weights as given
  int segment_words;  // of which the words of a segment are a multiple
};

// The sum of magnitudes of an output channel's weights.
int64_t kernel_sum(const ByteConv& c, const int8_t* weights, int64_t o) {
  const int64_t taps = c.shape.in_c / c.shape.groups * c.shape.kernel_h * c.shape.kernel_w;
  int64_t total = 0;
  for (int64_t i = 0; i < taps; ++i) total += std::abs(int64_t{weights[o * taps + i]});
  return total;
}

// Whether no sum of codes times weights, in whatever order it is made, leaves 16 bits.
bool fits_16_bits(const ByteConv& c, const int8_t* weights) {
  for (int64_t o = 0; o < c.shape.out_c; ++o)
    if (c.largest * kernel_sum(c, weights, o) > INT16_MAX) return false;
  return true;
}

Variant choose_variant(const ByteConv& c, const int8_t* weights) {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  // Tiles take 64 codes of a segment at a time; where most were padding VNNI is faster.
  const int64_t codes = byte_segment_codes(&c);
  const bool tiles = !c.depthwise && 4 * codes >= ceil_div(codes, 64) * 64;
  if (isa >= Isa::amx && tiles) return {"bytes amx", bytes_amx, 4, 16};
  if (isa >= Isa::avx512vnni) return {"bytes avx512vnni", bytes_avx512vnni, 4, 1};
  const bool narrow = fits_16_bits(c, weights);
  if (isa >= Isa::avx512 && narrow) return {"bytes16 avx512", bytes16_avx512, 4, 1};
  if (isa >= Isa::avx2 && narrow) return {"bytes16 avx2", bytes16_avx2, 4, 1};
  if (isa >= Isa::avx512) return {"bytes avx512", bytes_avx512, 2, 1};
  if (isa >= Isa::avx2) return {"bytes avx2", bytes_avx2, 2, 1};
#endif
  return {"bytes ref", bytes_ref, 0, 1};
}

// |sum| is at most the largest number times the sum of the absolute weights; with two sums these share the weights.
void check_sums(const ByteConv& c, const int8_t* weights) {
  const int64_t last = c.low + int64_t{255} * c.step;
  const int64_t largest = std::max({std::abs(int64_t{c.low}), std::abs(last), std::abs(int64_t{c.padding})});
  for (int64_t o = 0; o < c.shape.out_c; ++o) {
    const int64_t total = kernel_sum(c, weights, o);
    if (largest && total > INT32_MAX / largest)
      throw std::invalid_argument("sums of channel " + std::to_string(o) + " may reach " + std::to_string(total) +
                                  " * " + std::to_string(largest) + ", expected less than 2^31");
  }
}

// Which channel and weights each lane sums; calls use(lane, channel, sign): sign 0 for all weights, 1 or -1 for those
// of it.
template <class Use>
void for_each_lane(const ByteConv& c, Use&& use) {
  const int64_t channels = byte_group_channels(&c), per_block = byte_block_channels(&c);
  for (int64_t o = 0; o < c.shape.out_c; ++o) {
    const int64_t group = o / channels, i = o % channels;
    const int64_t lane = group * byte_group_lanes(&c) + i / per_block * SUM_LANES + i % per_block;
    use(lane, o, c.two ? 1 : 0);
    if (c.two) use(lane + HALF_LANES, o, -1);
  }
}

int8_t weight_of(int8_t weight, int sign) { return sign == 0 ? weight : weight == sign; }

Borders find_borders(const ByteConv& c, const int8_t* weights) {
  const int64_t taps = c.shape.kernel_h * c.shape.kernel_w, channels = c.shape.in_c / c.shape.groups;
  Conv2dShape lanes = c.shape;
  lanes.out_c = byte_groups(&c) * byte_group_lanes(&c);
  std::vector<int32_t> sums(lanes.out_c * taps);
  for_each_lane(c, [&](int64_t lane, int64_t o, int sign) {
    for (int64_t i = 0; i < channels; ++i)
      for (int64_t tap = 0; tap < taps; ++tap)
        sums[lane * taps + tap] += weight_of(weights[(o * channels + i) * taps + tap], sign);
  });
  return make_borders(lanes, sums.data(), c.low, c.low, c.padding, lanes.out_c);
}

Aligned<uint8_t> pack_weights(const ByteConv& c, const int8_t* weights, const Variant& variant) {
  const int64_t taps = c.shape.kernel_h * c.shape.kernel_w, channels = c.shape.in_c / c.shape.groups;
  if (!variant.word_codes) {
    Aligned<uint8_t> copy(c.shape.out_c * channels * taps);
    std::copy_n(weights, c.shape.out_c * channels * taps, reinterpret_cast<int8_t*>(copy.data()));
    return copy;
  }
  const int codes = c.depthwise ? 2 : variant.word_codes;  // weights in a word
  const int64_t tap_words = c.depthwise ? 1 : code_group_units(&c.x) / codes;
  const int64_t segment_taps = c.shape.kernel_w / byte_segments(&c);
  const int64_t words = ceil_div(segment_taps * tap_words, variant.segment_words) * variant.segment_words;
  const int64_t segments = taps / segment_taps;
  const int64_t group_lanes = byte_group_lanes(&c);
  Aligned<uint8_t> packed(4 * byte_groups(&c) * group_lanes * segments * words);
  for_each_lane(c, [&](int64_t lane, int64_t o, int sign) {
    const int64_t in_group = lane % group_lanes, width = byte_block_lanes(&c, in_group / SUM_LANES);
    const int64_t block = (lane - in_group % SUM_LANES) * segments * words;
    for (int64_t i = 0; i < channels; ++i)
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int8_t weight = weight_of(weights[(o * channels + i) * taps + tap], sign);
        const int64_t of_segment = tap % segment_taps * tap_words + i / codes;
        const int64_t word = block + (tap / segment_taps * words + of_segment) * width + in_group % SUM_LANES;
        if (codes == 4)
          reinterpret_cast<int8_t*>(packed.data())[4 * word + i % 4] = weight;
        else
          reinterpret_cast<int16_t*>(packed.data())[2 * word + i % 2] = weight;
      }
  });
  return packed;
}

// Bits of a packed weight, 0 if words are better.
int choose_bits(const ByteConv& c, const int8_t* weights, const Variant& variant) {
  const Conv2dShape& s = c.shape;
  const bool linear = s.kernel_h * s.kernel_w * s.out_h * s.out_w * s.groups == 1;
  const int64_t count = s.in_c * s.out_c;
  if (!linear || !variant.word_codes) return 0;
  const auto [least, most] = std::minmax_element(weights, weights + count);
  const int bits = c.two || (*least >= -1 && *most <= 1) ? 2 : *least >= -8 && *most <= 7 ? 4 : 8;
  // Against bytes, 4096 x 4096 weights of 2 bits take 0.33 instead of 0.66 ms at batch 1 (AMX; VNNI 0.38 instead of
  // 0.77), but 2048 x 1024, which stay in the second-level cache, 0.046 instead of 0.036 (VNNI). Words of 16 bits are
  // the largest of all.
  return variant.word_codes == 4 && (bits == 8 || count < kWorthPacking) ? 0 : bits;
}

// Weights of words, in the same order but in few bits.
template <class Weight>
Aligned<uint8_t> pack_bits(const ByteConv& c, const Aligned<uint8_t>& words) {
  const int64_t lanes = byte_group_lanes(&c), count = words.bytes() / static_cast<int64_t>(sizeof(Weight));
  const int64_t of_block = count / lanes * SUM_LANES, block_bytes = packed_bytes(c.bits, of_block);
  const auto* weights = reinterpret_cast<const Weight*>(words.data());
  Aligned<uint8_t> packed(byte_group_blocks(&c) * block_bytes);
  const int64_t per_unit = 512 / c.bits;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t in_block = i % of_block;
    uint8_t* unit = packed.data() + i / of_block * block_bytes + in_block / per_unit * 64;
    const int code = weights[i] + (1 << (c.bits - 1)), part = static_cast<int>(in_block % per_unit / 64);
    unit[in_block % 64] = static_cast<uint8_t>(unit[in_block % 64] | code << (part * c.bits));
  }
  return packed;
}

bool one_output_pixel(const Conv2dShape& s) { return s.out_h * s.out_w == 1; }

// Output rows per task: they and their input stay in the second-level cache while all output channels pass over them.
int64_t task_rows(const ByteConv& c, int64_t wanted) {
  constexpr int64_t kRowBytes = 128 * 1024;
  const Conv2dShape& s = c.shape;
  const int64_t row = code_columns(&c.x) * code_pixel_units(&c.x) + s.out_w * s.out_c / s.stride_h;
  const int64_t halo = (s.kernel_h - 1) * s.dilation_h + 1;
  int64_t rows = std::max<int64_t>((kRowBytes / row - halo) / s.stride_h + 1, 2);
  if (wanted > 1) rows = std::min(rows, std::max<int64_t>(ceil_div(s.out_h, wanted), 2));
  rows = std::min(rows, s.out_h);
  return ceil_div(s.out_h, ceil_div(s.out_h, rows));  // tasks of about one size
}

}  // namespace

ByteConvOp::ByteConvOp(const Conv2dShape& window, const CodeLayout& x, int32_t low, int32_t step, int32_t padding,
                       int32_t largest, const int8_t* weights, Finish finish)
    : RowOperation(finish.input_bytes(code_image_bytes(&x), window.out_h * window.out_w),
                   finish.output_bytes(window.out_h * window.out_w)), finish_(std::move(finish)) {
  const bool two = !finish_.negative.empty();
  const bool depthwise = !two && window.groups == window.in_c && window.groups == window.out_c && window.groups > 1;
  conv_ = {window, x,       low,     step,    padding, largest, two, depthwise, nullptr,
           0,      nullptr, nullptr, nullptr, 0,       nullptr, nullptr};
  check_sums(conv_, weights);
  borders_ = find_borders(conv_, weights);
  const Variant variant = choose_variant(conv_, weights);
  packed_ = pack_weights(conv_, weights, variant);
  conv_.bits = choose_bits(conv_, weights, variant);
  if (conv_.bits)
    packed_ = variant.word_codes == 4 ? pack_bits<int8_t>(conv_, packed_) : pack_bits<int16_t>(conv_, packed_);
  conv_.weights = packed_.data();
  conv_.row_class = borders_.row_class.data();
  conv_.column_class = borders_.column_class.data();
  conv_.start = borders_.start.data();
  conv_.column_classes = borders_.columns;
  set_limits(weights);
  name_ = variant.name;
  run_ = variant.run;
}

// Where only a sign is wanted, it is read off the sum of the codes.
void ByteConvOp::set_limits(const int8_t* weights) {
  if (!finish_.encode || finish_.out || finish_.residual || conv_.two || finish_.encode->kind != ENCODE_SIGN) return;
  const int64_t last = conv_.low + int64_t{255} * conv_.step;
  const int64_t largest = std::max({std::abs(int64_t{conv_.low}), std::abs(last), std::abs(int64_t{conv_.padding})});
  std::vector<int64_t> low(conv_.shape.out_c), high(conv_.shape.out_c);
  for (int64_t o = 0; o < conv_.shape.out_c; ++o) {
    high[o] = largest * kernel_sum(conv_, weights, o);
    low[o] = -high[o];
  }
  SumEpilogue e = finish_.of_sums(nullptr);
  e.encode = finish_.encode->view();
  const std::vector<Threshold> thresholds = find_thresholds(e, low, high);
  if (thresholds.empty()) return;
  for (const Threshold& t : thresholds) flip_.push_back(t.flip);
  const int64_t count = borders_.rows * borders_.columns * borders_.lanes;
  limit_ = Aligned<int32_t>(count);
  for_each_lane(conv_, [&](int64_t lane, int64_t o, int) {
    for (int64_t i = lane; i < count; i += borders_.lanes) {
      const int64_t least = thresholds[o].at - borders_.start.data()[i];  // of step * sum
      limit_.data()[i] = static_cast<int32_t>(
          std::clamp<int64_t>(conv_.step == 2 ? (least + 1) >> 1 : least, INT32_MIN, INT32_MAX));
    }
  });
  conv_.limit = limit_.data();
  conv_.flip = flip_.data();
}

void ByteConvOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  if (batch == 0) return;
  const Conv2dShape& s = conv_.shape;
  const SumEpilogue epilogue = finish_.view(finish_.residual ? static_cast<const float*>(inputs[1]) : nullptr, outputs);
  threads = useful_threads(batch, threads);
  // Several per thread, so that one that the system holds up leaves its share to the others.
  const int64_t wanted = threads > 1 ? 4 * int64_t{threads} : 1;
  const bool across = one_output_pixel(s);
  const int64_t chunks = across ? ceil_div(batch, kSamples) : batch;
  const int64_t rows = task_rows(conv_, ceil_div(wanted, chunks)), row_tasks = ceil_div(s.out_h, rows);
  const int64_t blocks = byte_groups(&conv_) * byte_group_blocks(&conv_);
  // Few rows: the channels are divided too, unless one task must have all of them.
  const bool whole = run_ == bytes_ref || byte_code_storage(&conv_, &epilogue.encode) == STORE_SCATTERED;
  const int64_t parts = whole ? 1 : std::clamp<int64_t>(ceil_div(wanted, chunks * row_tasks), 1, blocks);
  const size_t scratch = byte_scratch(&conv_, across ? std::min(batch, kSamples) : 1, rows);
  const auto* x = static_cast<const uint8_t*>(inputs[0]);
  parallel_for(chunks * row_tasks * parts, threads, [&](int64_t index) {
    const int64_t part = index % parts, row = index / parts % row_tasks, chunk = index / parts / row_tasks;
    const ByteTask task = {batch * chunk / chunks,   batch * (chunk + 1) / chunks, row * rows,
                           std::min((row + 1) * rows, s.out_h), blocks * part / parts, blocks * (part + 1) / parts};
    run_(&conv_, &epilogue, x, &task, thread_scratch(scratch));
  });
}

int ByteConvOp::useful_threads(int64_t batch, int threads) const {
  const Conv2dShape& s = conv_.shape;
  const int64_t sums = batch * s.out_h * s.out_w * s.out_c;
  const int64_t multiplications = sums * (s.in_c / s.groups) * s.kernel_h * s.kernel_w;
  return static_cast<int>(std::clamp<int64_t>(multiplications / kWorthThread, 1, threads));
}

int64_t ByteConvOp::rows_scratch(int64_t rows) const {
  return byte_scratch(&conv_, 1, std::min(rows, task_rows(conv_, 1)));
}

void ByteConvOp::run_rows(const void* const* inputs, int64_t image, int64_t row0, int64_t row1, float* image_out,
                          void* scratch) const {
  const Conv2dShape& s = conv_.shape;
  void* const out = image_out - image * s.out_h * s.out_w * s.out_c;  // where the batch would begin
  const SumEpilogue epilogue = finish_.view(finish_.residual ? static_cast<const float*>(inputs[1]) : nullptr, &out);
  const int64_t rows = task_rows(conv_, 1), blocks = byte_groups(&conv_) * byte_group_blocks(&conv_);
  for (int64_t row = row0; row < row1; row += rows) {
    const ByteTask task = {image, image + 1, row, std::min(row + rows, row1), 0, blocks};
    run_(&conv_, &epilogue, static_cast<const uint8_t*>(inputs[0]), &task, scratch);
  }
}

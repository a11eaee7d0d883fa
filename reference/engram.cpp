// The Engram module of "Conditional Memory via Scalable Lookup" (arXiv 2601.07372), in one plain file.
//
// Nothing here is fast and nothing is hidden: read it top to bottom, with the paper beside it. Part 1 turns tokens
// into row numbers, part 2 fetches the rows, part 3 lets the hidden state decide how much of them to use, part 4
// lets neighbours mix. Part 5 reads a golden file and checks every step against it:
//
//   engram_reference tests/golden/engram_module_paper.safetensors
//
// Left out here, and found in the library: tokenizer compression (core/token_map), several documents in one sequence
// and masked positions (core/ngram_hasher), training. Arithmetic is in double.
//
// Shapes: T tokens of one sequence; N largest n-gram; K hash heads per order; R = (N - 1) * K rows per token;
// d_row columns per row; M branches of the hidden state (1 for a plain Transformer), each d wide.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace engram_reference {

using Ids = std::vector<int64_t>;
using Vector = std::vector<double>;

struct Config {
  int N = 3, K = 8, M = 1, d = 0, d_row = 0;
  int kernel_size = 4, dilation = 3;
  double gate_norm_eps = 1.1920929e-07, conv_norm_eps = 1e-5;
  Ids multipliers;  // [N], newest token first, odd
  Ids primes;       // [R], order-major: the size of each head's table

  int R() const { return (N - 1) * K; }
  int d_mem() const { return R() * d_row; }
};

struct Weights {
  Vector E;                 // [sum of primes, d_row]: all heads' tables, one below the other
  std::vector<Vector> W_K;  // M matrices [d, d_mem], with biases b_K [d] (zero in the paper)
  std::vector<Vector> b_K;
  Vector W_V, b_V;             // [d, d_mem], [d]: one value for all branches
  std::vector<Vector> norm_k;  // M gains [d] of the keys' RMSNorm,
  std::vector<Vector> norm_h;  // of the hidden states',
  std::vector<Vector> norm_v;  // and of the convolution's input
  Vector conv;                 // [M * d, kernel_size], the last tap is the newest token
};

// ---- 1. Hashing (section 2.2 of the paper) -------------------------------------------------------------------
// z_{t,n,k} = (x'_t * m_0  XOR  x'_{t-1} * m_1  XOR ... x'_{t-n+1} * m_{n-1})  mod  p_{n,k}
// x' are canonical ids; before the first token stands `pad`. Returns z [T, R].
Ids hash(const Config& c, const Ids& x, int64_t pad) {
  Ids z;
  for (int64_t t = 0; t < static_cast<int64_t>(x.size()); ++t) {
    for (int n = 2; n <= c.N; ++n) {
      int64_t mix = 0;
      for (int k = 0; k < n; ++k) mix ^= (t - k >= 0 ? x[t - k] : pad) * c.multipliers[k];
      for (int k = 0; k < c.K; ++k) z.push_back(mix % c.primes[(n - 2) * c.K + k]);
    }
  }
  return z;
}

// ---- 2. Lookup: e_t is the concatenation of the R rows E_{n,k}[z_{t,n,k}] ------------------------------------
Vector lookup(const Config& c, const Weights& w, const int64_t* z_t) {
  Vector e_t;
  int64_t offset = 0;  // where head r's table begins in E
  for (int r = 0; r < c.R(); ++r) {
    const double* row = &w.E[(offset + z_t[r]) * c.d_row];
    e_t.insert(e_t.end(), row, row + c.d_row);
    offset += c.primes[r];
  }
  return e_t;
}

// ---- 3. Context-aware gating (section 2.3) -------------------------------------------------------------------
Vector linear(const Vector& W, const Vector& b, const Vector& x) {
  Vector y = b;
  for (size_t i = 0; i < y.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) y[i] += W[i * x.size() + j] * x[j];
  }
  return y;
}

Vector rms_norm(const Vector& x, const Vector& gain, double eps) {
  double mean_square = 0;
  for (double value : x) mean_square += value * value / static_cast<double>(x.size());
  Vector y = x;
  for (size_t i = 0; i < y.size(); ++i) y[i] *= gain[i] / std::sqrt(mean_square + eps);
  return y;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }

// alpha = sigmoid(signed square root of <RMSNorm(k), RMSNorm(h)> / sqrt(d))
double gate(const Config& c, const Weights& w, int m, const Vector& e_t, const Vector& h) {
  const Vector k = rms_norm(linear(w.W_K[m], w.b_K[m], e_t), w.norm_k[m], c.gate_norm_eps);
  const Vector q = rms_norm(h, w.norm_h[m], c.gate_norm_eps);
  double s = 0;
  for (int i = 0; i < c.d; ++i) s += k[i] * q[i] / std::sqrt(c.d);
  const double sign = s > 0 ? 1 : s < 0 ? -1 : 0;
  return sigmoid(sign * std::sqrt(std::max(std::abs(s), 1e-6)));
}

// ---- 4. The module: gate the value, then Y = v + SiLU(Conv1D(RMSNorm(v))) ------------------------------------
struct Output {
  Vector gates;  // [T, M]
  Vector Y;      // [T, M, d]; the block adds it: H <- H + Y
};

// z [T, R], H [T, M, d].
Output forward(const Config& c, const Weights& w, const Ids& z, const Vector& H) {
  const int T = static_cast<int>(z.size()) / c.R();
  Output out;
  Vector normed;  // [T, M, d], the convolution's input
  for (int t = 0; t < T; ++t) {
    const Vector e_t = lookup(c, w, &z[t * c.R()]);
    const Vector value = linear(w.W_V, w.b_V, e_t);
    for (int m = 0; m < c.M; ++m) {
      const double* hidden = &H[(t * c.M + m) * c.d];
      const double alpha = gate(c, w, m, e_t, Vector(hidden, hidden + c.d));
      Vector v = value;
      for (double& element : v) element *= alpha;
      const Vector v_normed = rms_norm(v, w.norm_v[m], c.conv_norm_eps);
      out.gates.push_back(alpha);
      out.Y.insert(out.Y.end(), v.begin(), v.end());
      normed.insert(normed.end(), v_normed.begin(), v_normed.end());
    }
  }
  // Depthwise: every channel has its own taps. Causal: tap j looks (kernel_size - 1 - j) * dilation tokens back.
  const int channels = c.M * c.d;
  for (int t = 0; t < T; ++t) {
    for (int channel = 0; channel < channels; ++channel) {
      double sum = 0;
      for (int j = 0; j < c.kernel_size; ++j) {
        const int past = t - (c.kernel_size - 1 - j) * c.dilation;
        if (past >= 0) sum += w.conv[channel * c.kernel_size + j] * normed[past * channels + channel];
      }
      out.Y[t * channels + channel] += silu(sum);
    }
  }
  return out;
}

// ---- 5. Golden files: what the authors' public demo computed -------------------------------------------------
// A safetensors file is 8 bytes of header length, a JSON header, raw data. This reads what golden files need.
class File {
 public:
  explicit File(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw std::runtime_error("cannot open '" + path + "'");
    bytes_.assign(std::istreambuf_iterator<char>(stream), {});
    uint64_t length = 0;
    for (int i = 0; i < 8 && bytes_.size() >= 8; ++i) length |= uint64_t{static_cast<uint8_t>(bytes_[i])} << (8 * i);
    if (bytes_.size() < 8 || length > bytes_.size() - 8) throw std::runtime_error("'" + path + "' is truncated");
    end_ = data_ = 8 + length;
    expect('{');
    do {
      const std::string name = text();
      expect(':');
      parse_entry(name);
    } while (accept(','));
  }

  bool has(const std::string& name) const { return tensors_.contains(name); }
  const std::string& metadata(const std::string& key) const { return find(metadata_, key); }
  const Ids& shape(const std::string& name) const { return find(tensors_, name).shape; }

  // Every element as T, whatever the file's type.
  template <typename T>
  std::vector<T> values(const std::string& name) const {
    const Tensor& tensor = find(tensors_, name);
    std::vector<T> out;
    for (size_t at = tensor.begin; at < tensor.end; at += tensor.size) {
      if (tensor.dtype == "F32") out.push_back(static_cast<T>(element<float>(at)));
      if (tensor.dtype == "F64") out.push_back(static_cast<T>(element<double>(at)));
      if (tensor.dtype == "I32") out.push_back(static_cast<T>(element<int32_t>(at)));
      if (tensor.dtype == "I64") out.push_back(static_cast<T>(element<int64_t>(at)));
    }
    return out;
  }

 private:
  struct Tensor {
    std::string dtype;
    Ids shape;
    size_t size = 0, begin = 0, end = 0;
  };

  template <typename Map>
  static const typename Map::mapped_type& find(const Map& map, const std::string& key) {
    auto found = map.find(key);
    if (found == map.end()) throw std::runtime_error("the file has no '" + key + "'");
    return found->second;
  }
  template <typename T>
  T element(size_t at) const {
    T value;
    std::memcpy(&value, &bytes_[at], sizeof(value));
    return value;
  }

  void parse_entry(const std::string& name) {
    Tensor tensor;
    expect('{');
    do {
      const std::string key = text();
      expect(':');
      if (name == "__metadata__")
        metadata_[key] = text();
      else if (key == "dtype")
        tensor.dtype = text();
      else if (key == "shape")
        tensor.shape = integers();
      else {
        const Ids offsets = integers();
        if (offsets.size() != 2) throw std::runtime_error("'" + name + "': data_offsets is no pair");
        tensor.begin = data_ + static_cast<size_t>(offsets[0]);
        tensor.end = data_ + static_cast<size_t>(offsets[1]);
      }
    } while (accept(','));
    expect('}');
    if (name == "__metadata__") return;
    tensor.size = tensor.dtype == "F32" || tensor.dtype == "I32" ? 4 : 8;
    size_t bytes = tensor.size;
    for (int64_t size : tensor.shape) bytes *= static_cast<size_t>(size);
    if (tensor.end > bytes_.size() || tensor.begin > tensor.end || tensor.end - tensor.begin != bytes) {
      throw std::runtime_error("'" + name + "': its offsets do not fit the file or its shape");
    }
    tensors_[name] = tensor;
  }

  char next() {
    while (at_ < end_ && std::strchr(" \t\r\n", bytes_[at_]) != nullptr) ++at_;
    return at_ < end_ ? bytes_[at_] : '\0';
  }
  bool accept(char wanted) { return next() == wanted && ++at_ > 0; }
  void expect(char wanted) {
    if (!accept(wanted)) throw std::runtime_error(std::string("header: wanted '") + wanted + "'");
  }
  std::string text() {
    std::string out;
    expect('"');
    for (; at_ < end_ && bytes_[at_] != '"'; ++at_) {
      if (bytes_[at_] == '\\' && at_ + 1 < end_) ++at_;  // the strings used below hold no escape but \"
      out += bytes_[at_];
    }
    expect('"');
    return out;
  }
  Ids integers() {
    Ids out;
    expect('[');
    while (!accept(']')) {
      next();
      size_t digits = 0;
      out.push_back(std::stoll(bytes_.substr(at_, 20), &digits));
      at_ += digits;
      accept(',');
    }
    return out;
  }

  std::string bytes_;
  size_t at_ = 8, end_ = 0, data_ = 0;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// "[[1009, 1013], [3001]]" -> 1009 1013 3001.
Ids integers_in(const std::string& text) {
  Ids out;
  for (size_t at = 0; (at = text.find_first_of("0123456789", at)) != std::string::npos;) {
    size_t digits = 0;
    out.push_back(std::stoll(text.substr(at), &digits));
    at += digits;
  }
  return out;
}

Config read_config(const File& file) {
  Config c;
  c.N = std::stoi(file.metadata("max_ngram_size"));
  c.K = std::stoi(file.metadata("n_heads"));
  c.M = std::stoi(file.metadata("hc_mult"));
  c.d = std::stoi(file.metadata("hidden_size"));
  c.d_row = std::stoi(file.metadata("n_embed_per_ngram")) / c.K;
  c.kernel_size = std::stoi(file.metadata("kernel_size"));
  c.dilation = std::stoi(file.metadata("dilation"));
  c.gate_norm_eps = std::stod(file.metadata("gate_norm_eps"));
  c.conv_norm_eps = std::stod(file.metadata("conv_norm_eps"));
  c.multipliers = integers_in(file.metadata("multipliers"));
  c.primes = integers_in(file.metadata("primes"));
  if (static_cast<int>(c.multipliers.size()) != c.N || static_cast<int>(c.primes.size()) != c.R()) {
    throw std::runtime_error("metadata: multipliers or primes do not fit max_ngram_size and n_heads");
  }
  return c;
}

Weights read_weights(const File& file, const Config& c) {
  auto tensor = [&](const std::string& name, int64_t size) {
    Vector values = file.values<double>("param." + name);
    if (static_cast<int64_t>(values.size()) != size) throw std::runtime_error("'" + name + "' has a wrong size");
    return values;
  };
  auto bias = [&](const std::string& name) { return file.has("param." + name) ? tensor(name, c.d) : Vector(c.d, 0.0); };
  int64_t rows = 0;
  for (int64_t prime : c.primes) rows += prime;
  Weights w;
  w.E = tensor("multi_head_embedding.embedding.weight", rows * c.d_row);
  w.W_V = tensor("value_proj.weight", int64_t{c.d} * c.d_mem());
  w.b_V = bias("value_proj.bias");
  w.conv = tensor("short_conv.conv.weight", int64_t{c.M} * c.d * c.kernel_size);
  for (int m = 0; m < c.M; ++m) {
    const std::string branch = std::to_string(m);
    w.W_K.push_back(tensor("key_projs." + branch + ".weight", int64_t{c.d} * c.d_mem()));
    w.b_K.push_back(bias("key_projs." + branch + ".bias"));
    w.norm_k.push_back(tensor("norm1." + branch + ".weight", c.d));
    w.norm_h.push_back(tensor("norm2." + branch + ".weight", c.d));
    w.norm_v.push_back(tensor("short_conv.norms." + branch + ".weight", c.d));
  }
  return w;
}

// max|got - wanted| / max|wanted|; infinite for a NaN.
double relative_difference(const Vector& got, const Vector& wanted) {
  if (got.size() != wanted.size()) throw std::runtime_error("sizes differ");
  double difference = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i])) return HUGE_VAL;
    difference = std::max(difference, std::abs(got[i] - wanted[i]));
    largest = std::max(largest, std::abs(wanted[i]));
  }
  return difference == 0 ? 0 : difference / largest;
}

// All sequences of a golden file through the module. z [B, T, R].
Output forward_batch(const File& file, const Config& c, const Weights& w, const Ids& z) {
  const int64_t B = file.shape("hashes").at(0), T = file.shape("hashes").at(1);
  const Vector H = file.values<double>("hidden");
  if (static_cast<int64_t>(H.size()) != B * T * c.M * c.d || static_cast<int64_t>(z.size()) != B * T * c.R()) {
    throw std::runtime_error("hidden or hashes do not fit the configuration");
  }
  for (size_t i = 0; i < z.size(); ++i) {
    if (z[i] < 0 || z[i] >= c.primes[i % c.R()]) throw std::runtime_error("a hash lies outside its table");
  }
  Output all;
  for (int64_t b = 0; b < B; ++b) {
    const Ids z_b(z.begin() + b * T * c.R(), z.begin() + (b + 1) * T * c.R());
    const Vector H_b(H.begin() + b * T * c.M * c.d, H.begin() + (b + 1) * T * c.M * c.d);
    const Output one = forward(c, w, z_b, H_b);
    all.gates.insert(all.gates.end(), one.gates.begin(), one.gates.end());
    all.Y.insert(all.Y.end(), one.Y.begin(), one.Y.end());
  }
  return all;
}

}  // namespace engram_reference

#ifndef ENGRAM_REFERENCE_WITHOUT_MAIN
// Golden files hold raw token ids; compressing them needs their tokenizer. This program therefore begins at the file's
// hashes; ctest's golden_module_reference, which has the tokenizer, also checks hash().
int main(int argc, char** argv) {
  using namespace engram_reference;
  if (argc != 2) {
    std::fprintf(stderr, "usage: engram_reference MODULE_CASE.safetensors\n");
    return 2;
  }
  try {
    const File file(argv[1]);
    const Config config = read_config(file);
    const Weights weights = read_weights(file, config);
    const Output output = forward_batch(file, config, weights, file.values<int64_t>("hashes"));
    const double gates = relative_difference(output.gates, file.values<double>("gates"));
    const double y = relative_difference(output.Y, file.values<double>("output"));
    std::printf("N=%d K=%d M=%d d=%d d_row=%d\n", config.N, config.K, config.M, config.d, config.d_row);
    std::printf("gates   differ by %.1e of the largest, allowed 1.0e-06\n", gates);
    std::printf("output  differs by %.1e of the largest, allowed 1.0e-06\n", y);
    return gates <= 1e-6 && y <= 1e-6 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
#endif

// Untied (locally connected) convolution on the CPU: y[p] = patch_p(x) W[p] for every output position p.
//
// Each of its three products is one small matrix product a position, result (rows, columns) = A (rows, depth) B (depth, columns).
// Only B, a piece of the weight or of the error, is packed, block by block into the first cache. A is read where it lies, through
// a list of offsets: nothing is gathered, and what would meet the padding is left out.
//
//          rows            depth                               columns           A    B
//   y      samples         the position's taps and channels    output channels   x    W
//   dx     samples         the outputs that saw the pixel      input channels    e    W
//   dW     taps, channels  samples                             output channels   x    e
//
// A is laid out beforehand as fp32 (pixel, sample, channel); weights and results are fp32 or bf16, sums are fp32. A plain C
// interface without torch's headers: this compiles in seconds, and outlives torch's versions.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__linux__)
#include <dlfcn.h>
#include <sys/mman.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

// As asym/kernels.py fills it. The weight is (positions, c / groups * kh * kw, o); en, ep: e's steps from sample to sample and
// from position to position, where dW reads it.
struct Shape {
    int64_t c, h, w, o, oh, ow, kh, kw, sh, sw, dh, dw, top, left, groups, n, threads, en, ep;
};

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2;
#elif defined(__SSE__)
constexpr int LANES = 4, VECTORS = 2;
#else
constexpr int LANES = 4, VECTORS = 4;
#endif
constexpr int ROWS = 6;  // ROWS x VECTORS sums fill the registers
constexpr int PANEL = LANES * VECTORS;
constexpr int DEPTH = 128;  // DEPTH x PANEL numbers of B fit the first cache: 32 KB with AVX-512
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));  // a Vector in memory

struct BFloat16 {
    uint16_t bits;
};

inline float widen(float value) { return value; }

inline float widen(BFloat16 value) {
    const uint32_t bits = uint32_t(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

inline void narrow(float value, float& to) { to = value; }

inline void narrow(float value, BFloat16& to) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    to.bits = value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// result[m] = (or +=) the sum over k of a[m][offset[k]] b[k], for M rows and V vectors of columns.
template <int M, int V>
void tile(const float* const* a, const ptrdiff_t* offset, ptrdiff_t depth, const float* b, float* const* result, bool add) {
    Vector sum[M][V];
    const float* row[M];
    for (int m = 0; m < M; m++) {
        row[m] = a[m];
        for (int v = 0; v < V; v++) sum[m][v] = add ? Vector(reinterpret_cast<const Anywhere*>(result[m])[v]) : Vector{};
    }
    for (ptrdiff_t k = 0; k < depth; k++, b += V * LANES) {
        Vector columns[V];
        for (int v = 0; v < V; v++) columns[v] = reinterpret_cast<const Anywhere*>(b)[v];
        for (int m = 0; m < M; m++) {
            const float factor = row[m][offset[k]];
            for (int v = 0; v < V; v++) sum[m][v] += factor * columns[v];
        }
    }
    for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) reinterpret_cast<Anywhere*>(result[m])[v] = sum[m][v];
}

typedef void (*Tile)(const float* const*, const ptrdiff_t*, ptrdiff_t, const float*, float* const*, bool);

template <int V, size_t... M>
Tile tile_of(int rows, std::index_sequence<M...>) {
    static const Tile tiles[] = {tile<M + 1, V>...};
    return tiles[rows - 1];
}

template <int V>
Tile tile_of(int rows) {
    return tile_of<V>(rows, std::make_index_sequence<ROWS>());
}

Tile tile_of(int rows, int vectors) {
    if constexpr (VECTORS == 4) {
        if (vectors == 4) return tile_of<4>(rows);
        if (vectors == 3) return tile_of<3>(rows);
    }
    return vectors == 2 ? tile_of<2>(rows) : tile_of<1>(rows);
}

inline Vector load(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }

inline Vector load(const BFloat16* from) {
    float wide[LANES];
    for (int i = 0; i < LANES; i++) wide[i] = widen(from[i]);
    return *reinterpret_cast<const Anywhere*>(wide);
}

typedef std::make_index_sequence<LANES> Lanes;

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int Indices __attribute__((vector_size(4 * LANES)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Indices{__VA_ARGS__})
#endif

template <size_t... I>
inline Vector interleaved_lower(Vector a, Vector b, std::index_sequence<I...>) {
    return SHUFFLE(a, b, int(I / 2 + I % 2 * LANES)...);
}

template <size_t... I>
inline Vector interleaved_upper(Vector a, Vector b, std::index_sequence<I...>) {
    return SHUFFLE(a, b, int(LANES / 2 + I / 2 + I % 2 * LANES)...);
}

// One round of a transposition: the rows of two halves, interleaved. log2(LANES) rounds transpose a square.
template <size_t... I>
inline void interleave(const Vector* rows, Vector* next, std::index_sequence<I...>) {
    ((next[2 * I] = interleaved_lower(rows[I], rows[I + LANES / 2], Lanes()),
      next[2 * I + 1] = interleaved_upper(rows[I], rows[I + LANES / 2], Lanes())), ...);
}

template <class T, size_t... I>
inline void transpose_square(const T* from, ptrdiff_t step, float* to, ptrdiff_t width, std::index_sequence<I...>) {
    Vector rows[LANES], next[LANES];
    ((rows[I] = load(from + I * step)), ...);
    for (int round = 1; round < LANES; round *= 4) {
        interleave(rows, next, std::make_index_sequence<LANES / 2>());
        if (round * 2 == LANES) {
            ((rows[I] = next[I]), ...);
            break;
        }
        interleave(next, rows, std::make_index_sequence<LANES / 2>());
    }
    ((*reinterpret_cast<Anywhere*>(to + I * width) = rows[I]), ...);
}

template <class T>
void transpose(const T* from, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t columns, float* to, ptrdiff_t width) {
    for (ptrdiff_t r = 0; r < rows; r += LANES)
        for (ptrdiff_t k = 0; k < columns; k += LANES) {
            if (r + LANES <= rows && k + LANES <= columns) {
                transpose_square(from + r * step + k, step, to + k * width + r, width, Lanes());
                continue;
            }
            for (ptrdiff_t i = r; i < std::min<ptrdiff_t>(rows, r + LANES); i++)
                for (ptrdiff_t j = k; j < std::min<ptrdiff_t>(columns, k + LANES); j++)
                    to[j * width + i] = widen(from[i * step + j]);
        }
}

// One thread's product at one position.
struct Product {
    std::vector<const float*> a;    // A's rows
    std::vector<ptrdiff_t> offset;  // where in a row each k lies
    std::vector<void*> to;          // the result's rows

    void clear() { a.clear(), offset.clear(), to.clear(); }

    // pack(k, block, first, count, b, width) writes B's rows k ... k + block, columns first ... first + count, a row every width.
    template <class T, class Pack>
    void run(ptrdiff_t columns, Pack pack) {
        const ptrdiff_t rows = a.size(), depth = offset.size();
        for (ptrdiff_t first = 0; first < columns; first += PANEL) {
            const ptrdiff_t count = std::min<ptrdiff_t>(PANEL, columns - first), vectors = steps(count, LANES);
            const ptrdiff_t width = vectors * LANES;
            const bool in_place = std::is_same<T, float>::value && count == width;
            b.assign(DEPTH * width, 0);
            if (!in_place) wide.assign(rows * width, 0);
            result.resize(rows);
            for (ptrdiff_t m = 0; m < rows; m++)
                result[m] = in_place ? static_cast<float*>(to[m]) + first : &wide[m * width];
            for (ptrdiff_t k = 0; k < std::max<ptrdiff_t>(depth, 1); k += DEPTH) {
                const ptrdiff_t block = std::min<ptrdiff_t>(DEPTH, depth - k);
                pack(k, block, first, count, b.data(), width);
                for (ptrdiff_t m = 0; m < rows; m += ROWS) {
                    const Tile tile = tile_of(std::min<ptrdiff_t>(ROWS, rows - m), vectors);
                    tile(&a[m], offset.data() + k, block, b.data(), &result[m], k > 0);
                }
            }
            if (in_place) continue;
            for (ptrdiff_t m = 0; m < rows; m++)
                for (ptrdiff_t i = 0; i < count; i++) narrow(wide[m * width + i], static_cast<T*>(to[m])[first + i]);
        }
    }

private:
    std::vector<float> b, wide;
    std::vector<float*> result;

    static ptrdiff_t steps(ptrdiff_t whole, ptrdiff_t step) { return (whole + step - 1) / step; }
};

// The threads that torch computes with, where they are GNU OpenMP's: others would compete with them, which wait for work by turning
// round for a while. Found in the running process, so that nothing is linked.
struct Team {
    void (*run)(void (*)(void*), void*, unsigned, unsigned);
    int (*index)();
    int (*size)();
};

const Team& team() {
#if defined(__linux__)
    static const Team found = {reinterpret_cast<decltype(Team::run)>(dlsym(RTLD_DEFAULT, "GOMP_parallel")),
                               reinterpret_cast<decltype(Team::index)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num")),
                               reinterpret_cast<decltype(Team::size)>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"))};
#else
    static const Team found = {};
#endif
    return found;
}

// work(i, product) for i = 0 ... count, in threads that treat denormal numbers as the calling one does.
template <class Work>
void parallel(int64_t count, int64_t threads, Work work) {
    threads = std::max<int64_t>(1, std::min(threads, count));
#if defined(__SSE__)
    const unsigned control = _mm_getcsr();
#endif
    auto share = [&](int64_t t, int64_t of) {
#if defined(__SSE__)
        const unsigned before = _mm_getcsr();
        _mm_setcsr(control);
#endif
        Product product;
        for (int64_t i = count * t / of; i < count * (t + 1) / of; i++) work(i, product);
#if defined(__SSE__)
        _mm_setcsr(before);
#endif
    };
    if (threads == 1) return share(0, 1);
    if (const Team& with = team(); with.run && with.index && with.size) {
        auto* const shared = &share;
        with.run([](void* data) { (**static_cast<decltype(shared)*>(data))(team().index(), team().size()); },
                 const_cast<void*>(static_cast<const void*>(&shared)), threads, 0);
        return;
    }
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; t++) others.emplace_back(share, t, threads);
    share(0, threads);
    for (auto& other : others) other.join();
}

struct Meeting {
    int64_t tap, place;  // a tap of the kernel, and the pixel or the position that it joins
};

std::vector<Meeting> pixels_of(const Shape& s, int64_t position) {
    std::vector<Meeting> meetings;
    for (int64_t tap = 0; tap < s.kh * s.kw; tap++) {
        const int64_t h = position / s.ow * s.sh - s.top + tap / s.kw * s.dh;
        const int64_t w = position % s.ow * s.sw - s.left + tap % s.kw * s.dw;
        if (h >= 0 && h < s.h && w >= 0 && w < s.w) meetings.push_back({tap, h * s.w + w});
    }
    return meetings;
}

std::vector<Meeting> positions_of(const Shape& s, int64_t pixel) {
    std::vector<Meeting> meetings;
    for (int64_t tap = 0; tap < s.kh * s.kw; tap++) {
        const int64_t h = pixel / s.w + s.top - tap / s.kw * s.dh;
        const int64_t w = pixel % s.w + s.left - tap % s.kw * s.dw;
        const bool between = h < 0 || w < 0 || h % s.sh || w % s.sw;
        if (!between && h / s.sh < s.oh && w / s.sw < s.ow) meetings.push_back({tap, h / s.sh * s.ow + w / s.sw});
    }
    return meetings;
}

template <class T>
void forward(const Shape& s, const float* x, const T* weight, T* y) {
    const int64_t taps = s.kh * s.kw, c = s.c / s.groups, o = s.o / s.groups;
    parallel(s.oh * s.ow, s.threads, [&](int64_t p, Product& product) {
        const auto meetings = pixels_of(s, p);
        for (int64_t g = 0; g < s.groups; g++) {
            product.clear();
            for (int64_t n = 0; n < s.n; n++) {
                product.a.push_back(x + n * s.c + g * c);
                product.to.push_back(y + (n * s.oh * s.ow + p) * s.o + g * o);
            }
            for (const Meeting& m : meetings)
                for (int64_t i = 0; i < c; i++) product.offset.push_back(m.place * s.n * s.c + i);
            product.run<T>(o, [&](int64_t k, int64_t block, int64_t first, int64_t count, float* b, int64_t width) {
                int64_t channel = k % c;
                auto meeting = meetings.begin() + k / c;
                for (; block > 0; block--, b += width) {
                    const T* from = weight + ((p * c + channel) * taps + meeting->tap) * s.o + g * o + first;
                    for (int64_t i = 0; i < count; i++) b[i] = widen(from[i]);
                    if (++channel == c) channel = 0, ++meeting;
                }
            });
        }
    });
}

template <class T>
void backward_x(const Shape& s, const float* e, const T* weight, T* dx) {
    const int64_t taps = s.kh * s.kw, c = s.c / s.groups, o = s.o / s.groups;
    parallel(s.h * s.w, s.threads, [&](int64_t pixel, Product& product) {
        const auto meetings = positions_of(s, pixel);
        auto kernel = [&](const Meeting& m, int64_t i) { return weight + ((m.place * c + i) * taps + m.tap) * s.o; };
        for (int64_t g = 0; g < s.groups; g++) {
            product.clear();
            for (int64_t n = 0; n < s.n; n++) {
                product.a.push_back(e + n * s.o + g * o);
                product.to.push_back(dx + (n * s.h * s.w + pixel) * s.c + g * c);
            }
            for (const Meeting& m : meetings)
                for (int64_t i = 0; i < o; i++) product.offset.push_back(m.place * s.n * s.o + i);
            product.run<T>(c, [&](int64_t k, int64_t block, int64_t first, int64_t count, float* b, int64_t width) {
                for (const int64_t end = k + block; k < end;) {
                    const int64_t many = std::min(end - k, o - k % o);  // of one kernel
                    transpose(kernel(meetings[k / o], first) + g * o + k % o, taps * s.o, count, many, b, width);
                    k += many, b += many * width;
                }
            });
        }
    });
}

template <class T>
void backward_w(const Shape& s, const float* x, const float* e, T* dw) {
    const int64_t taps = s.kh * s.kw, c = s.c / s.groups, o = s.o / s.groups;
    parallel(s.oh * s.ow, s.threads, [&](int64_t p, Product& product) {
        const auto meetings = pixels_of(s, p);
        T* const here = dw + p * c * taps * s.o;
        if (int64_t(meetings.size()) < taps) std::memset(static_cast<void*>(here), 0, c * taps * s.o * sizeof(T));
        for (int64_t g = 0; g < s.groups; g++) {
            product.clear();
            for (int64_t n = 0; n < s.n; n++) product.offset.push_back(n * s.c);
            for (const Meeting& m : meetings)
                for (int64_t i = 0; i < c; i++) {
                    product.a.push_back(x + m.place * s.n * s.c + g * c + i);
                    product.to.push_back(here + (i * taps + m.tap) * s.o + g * o);
                }
            product.run<T>(o, [&](int64_t k, int64_t block, int64_t first, int64_t count, float* b, int64_t width) {
                for (const int64_t end = k + block; k < end; k++, b += width)
                    std::memcpy(b, e + k * s.en + p * s.ep + g * o + first, count * sizeof(float));
            });
        }
    });
}

template <class T>
void lay(const int64_t* size, const int64_t* step, const T* from, float* to, int64_t threads) {
    constexpr int64_t SAMPLES = 16;  // at once: from is then read, and to written, in runs
    const int64_t n = size[0], c = size[1], h = size[2], w = size[3];
    parallel((n + SAMPLES - 1) / SAMPLES, threads, [&](int64_t block, Product&) {
        for (int64_t p = 0; p < h * w; p++)
            for (int64_t k = block * SAMPLES; k < std::min(n, (block + 1) * SAMPLES); k++) {
                const T* source = from + k * step[0] + p / w * step[2] + p % w * step[3];
                float* const goal = to + (p * n + k) * c;
                if (step[1] == 1)
                    for (int64_t i = 0; i < c; i++) goal[i] = widen(source[i]);
                else
                    for (int64_t i = 0; i < c; i++) goal[i] = widen(source[i * step[1]]);
            }
    });
}

}  // namespace

extern "C" {

// Asks for large pages where a result is about to be written: getting its memory in small ones costs as much as filling it.
void untied_enlarge_pages(void* begin, size_t bytes) {
#if defined(__linux__)
    constexpr uintptr_t LARGE = 1 << 21;
    const uintptr_t first = (uintptr_t(begin) + LARGE - 1) & ~(LARGE - 1), last = (uintptr_t(begin) + bytes) & ~(LARGE - 1);
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)begin, (void)bytes;
#endif
}

void untied_y(const Shape* s, int bf16, const float* x, const void* weight, void* y) {
    if (bf16)
        forward(*s, x, static_cast<const BFloat16*>(weight), static_cast<BFloat16*>(y));
    else
        forward(*s, x, static_cast<const float*>(weight), static_cast<float*>(y));
}

void untied_x(const Shape* s, int bf16, const float* e, const void* weight, void* dx) {
    if (bf16)
        backward_x(*s, e, static_cast<const BFloat16*>(weight), static_cast<BFloat16*>(dx));
    else
        backward_x(*s, e, static_cast<const float*>(weight), static_cast<float*>(dx));
}

void untied_w(const Shape* s, int bf16, const float* x, const float* e, void* dw) {
    if (bf16)
        backward_w(*s, x, e, static_cast<BFloat16*>(dw));
    else
        backward_w(*s, x, e, static_cast<float*>(dw));
}

// from (n, c, h, w) with any steps -> to (h * w, n, c)
void untied_lay(const int64_t* size, const int64_t* step, int bf16, const void* from, float* to, int64_t threads) {
    if (bf16)
        lay(size, step, static_cast<const BFloat16*>(from), to, threads);
    else
        lay(size, step, static_cast<const float*>(from), to, threads);
}
}

// Runs kernels on the CPU, for tests: CUDA's built-ins, and a block's threads as fibres that take turns at barriers. Blocks
// follow each other; every other block runs its threads backwards, so that a forgotten barrier shows.
#define ON_CPU 1
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>

#define INLINE inline
#define NOINLINE static
#define SHARED static
#define ON_CPU_THREADS 256

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;

inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
inline long long __double_as_longlong(double x) { long long bits; memcpy(&bits, &x, 8); return bits; }
inline double __longlong_as_double(long long bits) { double x; memcpy(&x, &bits, 8); return x; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
template <typename T> inline T atomicMin(T *at, T value) { T old = *at; if (value < old) *at = value; return old; }

namespace on_cpu {
[[noreturn]] static inline void fail(const char *why) { fprintf(stderr, "kernels on the CPU: %s\n", why); abort(); }

// A fibre lives as long as the library, and begins anew with each block. Only its first entry is a switch of contexts; from
// then on jumps, which unlike that make no system call, lead from one to the next.
struct Fibre { ucontext_t context; jmp_buf jump; bool begun, done; };
static Fibre fibres[ON_CPU_THREADS];
static ucontext_t first_entry;
static jmp_buf scheduler;
static unsigned current, waiting, generation, live;
static bool cooperative;
static int any, any_next;
static void (*body)(const void *);
static const void *parameters;

static inline void yield() {
    if (!_setjmp(fibres[current].jump)) _longjmp(scheduler, 1);
}

static inline void barrier() {
    if (!cooperative) fail("a barrier in a kernel that is not COOPERATIVE");
    const unsigned own = generation;
    if (++waiting == ON_CPU_THREADS) {
        waiting = 0;
        any = any_next;
        any_next = 0;
        generation++;
        return;
    }
    while (generation == own) yield();
}

static void enter() {
    for (;;) {
        body(parameters);
        fibres[current].done = true;
        live--;
        if (waiting > 0) fail("a thread left its block while others wait at a barrier");
        yield();
    }
}

static void run_block(bool backwards) {
    const size_t stack = 32 << 10;
    static char *stacks = nullptr;
    if (!stacks) {
        stacks = (char *)mmap(nullptr, stack * ON_CPU_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) fail("no memory for stacks");
    }
    live = ON_CPU_THREADS;
    waiting = 0;
    for (unsigned i = 0; i < ON_CPU_THREADS; i++) fibres[i].done = false;
    while (live > 0) {
        // Volatile: it must keep its value across the jumps back.
        for (volatile unsigned turn = 0; turn < ON_CPU_THREADS; turn = turn + 1) {
            current = backwards ? ON_CPU_THREADS - 1 - turn : (unsigned)turn;
            Fibre &fibre = fibres[current];
            if (fibre.done) continue;
            threadIdx.x = current;
            if (_setjmp(scheduler)) continue;
            if (fibre.begun) _longjmp(fibre.jump, 1);
            fibre.begun = true;
            getcontext(&fibre.context);
            fibre.context.uc_stack.ss_sp = stacks + current * stack;
            fibre.context.uc_stack.ss_size = stack;
            fibre.context.uc_link = nullptr;
            makecontext(&fibre.context, enter, 0);
            swapcontext(&first_entry, &fibre.context);
        }
    }
}

static inline void run(void (*kernel)(const void *), const void *p, unsigned blocks, bool barriers) {
    body = kernel;
    parameters = p;
    cooperative = barriers;
    blockDim = {ON_CPU_THREADS, 1, 1};
    gridDim = {blocks, 1, 1};
    for (unsigned block = 0; block < blocks; block++) {
        blockIdx = {block, 0, 0};
        if (barriers) {
            run_block(block % 2 == 1);
            continue;
        }
        for (unsigned i = 0; i < ON_CPU_THREADS; i++) {
            threadIdx.x = i;
            kernel(p);
        }
    }
}
}  // namespace on_cpu

inline void __syncthreads() { on_cpu::barrier(); }
inline int __syncthreads_or(int flag) {
    if (flag) on_cpu::any_next = 1;
    on_cpu::barrier();
    const int result = on_cpu::any;
    on_cpu::barrier();
    return result;
}

// A kernel is called with the bytes of its parameters and the number of blocks; 0 where the bytes are not its parameters.
#define ON_CPU_KERNEL(name, Parameters, barriers) \
    static void name##_body(const Parameters &p); \
    extern "C" __attribute__((visibility("default"))) int name(const void *bytes, size_t length, unsigned blocks) { \
        if (length != sizeof(Parameters)) return 0; \
        on_cpu::run([](const void *p) { name##_body(*(const Parameters *)p); }, bytes, blocks, barriers); \
        return 1; \
    } \
    static void name##_body(const Parameters &p)
#define KERNEL(name, Parameters) ON_CPU_KERNEL(name, Parameters, false)
#define COOPERATIVE(name, Parameters) ON_CPU_KERNEL(name, Parameters, true)

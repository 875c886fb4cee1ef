"""Generates the C text of Adafactor's factored second moment: row means and column means."""

from __future__ import annotations

from lit_optim.kernels.codegen.c import C_TYPES
from lit_optim.kernels.codegen.c_prelude import PRELUDE
from lit_optim.kernels.codegen.factored_c_matrices import MATRICES

#: Functions that read and write a format; other formats are C types.
READ = {"bfloat16": "from_bfloat16"}
WRITE = {"bfloat16": "to_bfloat16"}

#: The numbers of a call, in the order of `h`.
NUMBERS = (
    "take", "add", "least_mean", "most", "a", "b", "least_size", "d", "average", "weight_decay",
)  # fmt: skip
#: The bools of a call, after the numbers.
SWITCHES = ("scaled", "maximize", "spreads")

#: Many tiny matrices, and the functions that divide a call among threads.
CALL = """
/* Updates the second moments of many matrices of a few elements, as convolutions have them. For the
   usual sizes it is inlined, so that no loop inside a matrix is left. */
static inline __attribute__((always_inline)) void tiny_moments(
    const Item *x, const double *h, int64_t from, int64_t to, double *sums, const int64_t rows,
    const int64_t columns) {{
    const Real take = h[TAKE], keep = 1 - h[TAKE], add = h[ADD], most = h[MOST];
    const Real least = h[LEAST_MEAN], of_rows = 1 / (Real)rows, of_columns = 1 / (Real)columns;
    double p2 = 0, u2 = 0;
#pragma omp simd reduction(+:p2, u2)
    for (int64_t k = from; k < to; ++k) {{
        const {g} *gs = x->g + k * rows * columns;
        const {p} *ps = x->p + k * rows * columns;
        Real *r = x->r + k * rows, *c = x->c + k * columns, mean = 0, size = 0, squares = 0;
        for (int64_t i = 0; i < rows; ++i) {{
            Real total = 0;
            for (int64_t j = 0; j < columns; ++j) {{
                total += square({read_g}(gs[i * columns + j]));
                size += square({read_p}(ps[i * columns + j]));
            }}
            r[i] = lerp(r[i], total * of_columns + add, take, keep);
            mean += r[i] * of_rows;
        }}
        for (int64_t j = 0; j < columns; ++j) {{
            Real total = 0;
            for (int64_t i = 0; i < rows; ++i) total += square({read_g}(gs[i * columns + j]));
            c[j] = lerp(c[j], total * of_rows + add, take, keep);
        }}
        mean = mean < least ? least : mean;
        for (int64_t i = 0; i < rows; ++i) {{
            const Real ratio = r[i] / mean;
            for (int64_t j = 0; j < columns; ++j) {{
                const Real inverse = 1 / ({sqrt}(ratio) * {sqrt}(c[j]));
                squares += square({read_g}(gs[i * columns + j])
                                  * (inverse > most ? most : inverse));
            }}
        }}
        p2 += size;
        u2 += squares;
    }}
    sums[P2] += p2;
    sums[U2] += u2;
}}

static inline __attribute__((always_inline)) void move_tiny(
    const Item *x, const double *h, int64_t from, int64_t to, Move by,
    const int64_t rows, const int64_t columns) {{
    const Real least = h[LEAST_MEAN], most = h[MOST], of_rows = 1 / (Real)rows;
#pragma GCC ivdep
    for (int64_t k = from; k < to; ++k) {{
        const Real *r = x->r + k * rows, *c = x->c + k * columns;
        Real mean = 0;
        for (int64_t i = 0; i < rows; ++i) mean += r[i] * of_rows;
        mean = mean < least ? least : mean;
        for (int64_t i = 0; i < rows; ++i) {{
            const Real ratio = r[i] / (Real)mean;
            for (int64_t j = 0; j < columns; ++j) {{
                const Real inverse = 1 / ({sqrt}(ratio) * {sqrt}(c[j]));
                const int64_t at = (k * rows + i) * columns + j;
                move(x, at, {read_g}(x->g[at]) * (inverse > most ? most : inverse), by);
            }}
        }}
    }}
}}

static int is_tiny(const Item *x) {{ return x->rows * x->columns <= TINY; }}

/* Whether the squares of these gradients and their sum are finite. */
static int are_small(const {g} *restrict gs, int64_t count) {{
    Real sum = 0;
#pragma omp simd reduction(+:sum)
    for (int64_t i = 0; i < count; ++i) sum += square({read_g}(gs[i]));
    return sum < INFINITY;
}}

static double squares_of(const {p} *ps, int64_t count) {{
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += wide_square({read_p}(ps[i]));
    return total;
}}

/* Updates the second moments of tiny matrices; one by one if a square overflows. */
static void tiny_matrix_moments(const Item *x, const double *h, int64_t from, int64_t to,
                                double *part) {{
    const int64_t rows = x->rows, columns = x->columns, size = rows * columns;
    const double p2 = part[P2], u2 = part[U2];
    if (!are_small(x->g + from * size, (to - from) * size)) {{
        for (int64_t k = from; k < to; ++k) matrix_moment(x, h, k, part);
        return;
    }}
    if (rows == 1 && columns == 1) tiny_moments(x, h, from, to, part, 1, 1);
    else if (rows == 3 && columns == 3) tiny_moments(x, h, from, to, part, 3, 3);
    else tiny_moments(x, h, from, to, part, rows, columns);
    if (part[P2] + part[U2] < INFINITY) return;
    part[P2] = p2 + squares_of(x->p + from * size, (to - from) * size);
    part[U2] = u2;
    for (int64_t k = from; k < to; ++k)
        part[U2] += directions(x, h, k * rows, (k + 1) * rows, mean_of_rows(x, k * rows),
                               inverses_of(x, k, part));
}}

static void matrix_moments(const Item *x, const double *h, int64_t from, int64_t to,
                           double *part) {{
    const int64_t some = CHUNK / (x->rows * x->columns) + 1;  /* so that they stay in the cache */
    if (is_tiny(x)) for (int64_t k = from; k < to; k += some)
        tiny_matrix_moments(x, h, k, k + some < to ? k + some : to, part);
    else for (int64_t k = from; k < to; ++k) matrix_moment(x, h, k, part);
}}

static void move_matrices(const Item *x, const double *h, int64_t from, int64_t to, double *part,
                          Move by) {{
    const int64_t rows = x->rows, columns = x->columns;
    if (rows == 1 && columns == 1) move_tiny(x, h, from, to, by, 1, 1);
    else if (rows == 3 && columns == 3) move_tiny(x, h, from, to, by, 3, 3);
    else if (is_tiny(x)) move_tiny(x, h, from, to, by, rows, columns);
    else for (int64_t k = from; k < to; ++k) move_matrix(x, h, k, part, by);
}}

/* Updates a tensor by `team` threads, of which this is number `thread`. */
static void update_tensor(const Item *x, const double *h, double *scratch, int64_t thread,
                          int64_t team) {{
    const int64_t parts = count_parts(x), each = x->each, size_of_part = part_size(x);
    const int64_t begin = parts * thread / team, end = parts * (thread + 1) / team;
    const int is_matrix = x->columns && x->batch == 1;
    double *inverses = scratch + SUMS + x->columns;  /* of a single matrix: those of part 0 */
    for (int64_t q = begin; q < end; ++q) {{
        double *part = scratch + q * size_of_part;
        const int64_t from = q * each, to = from + each < units(x) ? from + each : units(x);
        part[P2] = part[R1] = part[U2] = 0;
        if (!x->columns) vector_moment(x, h, from, to, part);
        else if (is_matrix) row_moments(x, h, from, to, part, part + SUMS);
        else matrix_moments(x, h, from, to, part);
    }}
    wait_for(team);
    double mean = 0;
    if (is_matrix) {{
        for (int64_t q = 0; q < parts; ++q) mean += scratch[q * size_of_part + R1];
        mean /= x->rows;
        column_moments(x, h, x->c, scratch, parts, x->columns * thread / team,
                       x->columns * (thread + 1) / team, inverses);
        wait_for(team);
        for (int64_t q = begin; q < end; ++q) {{
            const int64_t from = q * each, to = from + each < x->rows ? from + each : x->rows;
            scratch[q * size_of_part + U2] = directions(x, h, from, to, mean, inverses);
        }}
        wait_for(team);
    }}
    double p2 = 0, u2 = 0;
    for (int64_t q = 0; q < parts; ++q) {{
        p2 += scratch[q * size_of_part + P2];
        u2 += scratch[q * size_of_part + U2];
    }}
    const double numel = (double)x->batch * x->rows * (x->columns ? x->columns : 1);
    const double size = sqrt(p2 / numel), over = sqrt(u2 / numel) / h[D];
    const double scale = !h[SCALED] ? 1 : size > h[LEAST_SIZE] ? size : h[LEAST_SIZE];
    const double b = h[B] * scale, down = over > 1 || (over != over && h[SPREADS]) ? over : 1;
    const Move by = {{h[A], b * h[WEIGHT_DECAY], (h[MAXIMIZE] ? -b : b) / down, h[AVERAGE],
                     1 - h[AVERAGE]}};
    for (int64_t q = begin; q < end; ++q) {{
        double *part = scratch + q * size_of_part;
        const int64_t from = q * each, to = from + each < units(x) ? from + each : units(x);
        if (!x->columns) move_vector(x, h, from, to, by);
        else if (is_matrix) move_rows(x, h, from, to, mean, inverses, by);
        else move_matrices(x, h, from, to, part, by);
    }}
    if (x->size && thread == 0) *x->size = size;
    wait_for(team);
}}

static void update_all(const Shapes *call, const double *h, int64_t thread, int64_t team) {{
    for (int64_t k = 0, small = 0; k < call->count; ++k)
        if (count_parts(call->tensors + k) == 1 && small++ % team == thread)
            update_tensor(call->tensors + k, h, call->scratch + thread * call->thread_scratch,
                          0, 1);
    wait_for(team);
    for (int64_t k = 0; k < call->count; ++k)
        if (count_parts(call->tensors + k) > 1)
            update_tensor(call->tensors + k, h, call->scratch + team * call->thread_scratch,
                          thread, team);
}}

void step(const Shapes *call, const double *h, int64_t t, int threads) {{
    (void)t;
#ifdef _OPENMP
    if (threads > 1) {{
        Meeting here = {{0, 0}};
#pragma omp parallel num_threads(threads)
        {{
            meeting = &here;
            update_all(call, h, omp_get_thread_num(), omp_get_num_threads());
        }}
        return;
    }}
#endif
    update_all(call, h, 0, 1);
}}
"""

#: The number of sums of a part.
SUMS = 3


def generate_factored_c(p: str, g: str) -> str:
    """Write the C text for parameters and gradients of these formats."""
    real = "double" if p == "float64" else "float"
    body = (MATRICES + CALL).format(
        real=real,
        p=C_TYPES[p],
        g=C_TYPES[g],
        read_p=READ.get(p, "(Real)"),
        read_g=READ.get(g, "(Real)"),
        write_p=WRITE.get(p, f"({C_TYPES[p]})"),
        largest="DBL_MAX" if real == "double" else "FLT_MAX",
        sqrt="sqrt" if real == "double" else "sqrtf",
        sums=SUMS,
        names=", ".join(name.upper() for name in (*NUMBERS, *SWITCHES)),
    )
    return PRELUDE + body

"""The C text of a second moment that is kept as row and column means (Adafactor's)."""

from __future__ import annotations

from lit_optim.kernels.codegen.c import C_TYPES
from lit_optim.kernels.codegen.c_prelude import PRELUDE

#: How a format is read and written; others are what they are in C.
READ = {"bfloat16": "from_bfloat16"}
WRITE = {"bfloat16": "to_bfloat16"}

#: Numbers of a call, in the order of `h`.
NUMBERS = (
    "take", "add", "least_mean", "most", "a", "b", "least_size", "d", "average", "weight_decay",
)  # fmt: skip
#: Bools of a call, after the numbers.
SWITCHES = ("scaled", "maximize", "spreads")

BODY = """
typedef {real} Real;

/* A tensor: `batch` matrices of `rows` x `columns`; or, with columns 0, `rows` single numbers,
   whose second moment is `r` itself. `m` and `size` may be NULL. A part of it is `each` whole rows,
   or where it is several matrices, so many whole ones. */
typedef struct {{
    {p} *p;
    const {g} *g;
    Real *r, *c, *m, *size;
    int64_t batch, rows, columns, each;
}} One;

/* Small tensors go to one thread each, which has `room` doubles of its own; the others are shared,
   part by part, in the room behind. What is added up, and in which order, depends on shapes alone:
   any number of threads gives the same bits. */
typedef struct {{
    int64_t count;
    const One *tensors;
    double *scratch;
    int64_t room;
}} Shapes;

enum {{ TINY = 64, P2 = 0, R1 = 1, U2 = 2, SUMS = {sums} }};
enum {{ {names}, NUMBERS }};

/* Squares of floats overflow from 1.8e19 on. Sums of them that are not finite are taken again, of
   doubles: nobody else pays for it. */
static inline Real square(Real x) {{ return x * x; }}

static inline double wide_square(double x) {{ return x * x; }}

/* A mean of squares as it is stored: as the largest number there is where it is larger than that,
   for infinite means would leave nothing of their ratios. */
static inline Real stored(double mean) {{
    return mean > {largest} && mean < INFINITY ? {largest} : (Real)mean;
}}

/* As `lerp` of the rules; keep is 1 - weight. */
static inline Real lerp(Real x, Real y, Real weight, Real keep) {{
    return weight < (Real)0.5 ? x + weight * (y - x) : y - keep * (y - x);
}}

static inline int64_t units(const One *x) {{ return x->batch > 1 ? x->batch : x->rows; }}

static inline int64_t count_parts(const One *x) {{ return (units(x) + x->each - 1) / x->each; }}

/* Scratch of a part: its sums, then two rows: sums over columns, and 1 / sqrt of their means. */
static inline int64_t room_of_a_part(const One *x) {{ return SUMS + 2 * x->columns; }}

static void vector_moment(const One *x, const double *h, int64_t from, int64_t to, double *sums) {{
    const Real take = h[TAKE], keep = 1 - h[TAKE], add = h[TAKE] * h[ADD], most = h[MOST];
    for (int64_t start = from; start < to; start += BLOCK) {{
        const int64_t end = start + BLOCK < to ? start + BLOCK : to;
        Real p2 = 0, u2 = 0;
#pragma omp simd reduction(+:p2, u2)
        for (int64_t i = start; i < end; ++i) {{
            const Real g = {read_g}(x->g[i]), v = keep * x->r[i] + (take * g) * g + add;
            const Real inverse = 1 / {sqrt}(v);
            x->r[i] = v;
            p2 += square({read_p}(x->p[i]));
            u2 += square(g * (inverse > most ? most : inverse));
        }}
        if (p2 + u2 < INFINITY) {{
            sums[P2] += p2;
            sums[U2] += u2;
        }} else for (int64_t i = start; i < end; ++i) {{
            const Real inverse = 1 / {sqrt}(x->r[i]);
            sums[P2] += wide_square({read_p}(x->p[i]));
            sums[U2] += wide_square({read_g}(x->g[i]) * (inverse > most ? most : inverse));
        }}
    }}
}}

/* Rows [from, to) of the whole: row means taken in, the sums of columns added up. */
static void row_moments(const One *x, const double *h, int64_t from, int64_t to, double *sums,
                        double *restrict columns) {{
    const int64_t n = x->columns;
    const Real take = h[TAKE], keep = 1 - h[TAKE], add = h[ADD];
    memset(columns, 0, 8 * n);
    for (int64_t row = from; row < to; ++row) {{
        const {g} *restrict gs = x->g + row * n;
        const {p} *restrict ps = x->p + row * n;
        double total = 0, size = 0;
        for (int64_t start = 0; start < n; start += BLOCK) {{
            const int64_t end = start + BLOCK < n ? start + BLOCK : n;
            Real g2 = 0, p2 = 0;
#pragma omp simd reduction(+:g2, p2)
            for (int64_t j = start; j < end; ++j) {{
                g2 += square({read_g}(gs[j]));
                p2 += square({read_p}(ps[j]));
            }}
            if (g2 + p2 < INFINITY) {{
                total += g2;
                size += p2;
                for (int64_t j = start; j < end; ++j) columns[j] += square({read_g}(gs[j]));
            }} else for (int64_t j = start; j < end; ++j) {{
                const double s = wide_square({read_g}(gs[j]));
                total += s;
                size += wide_square({read_p}(ps[j]));
                columns[j] += s;
            }}
        }}
        x->r[row] = lerp(x->r[row], stored(total / n) + add, take, keep);
        sums[R1] += x->r[row];
        sums[P2] += size;
    }}
}}

/* The means of columns [from, to) taken in, and 1 / sqrt of them. */
static void column_moments(const One *x, const double *h, Real *c, const double *parts,
                           int64_t count, int64_t from, int64_t to, double *inverses) {{
    const Real take = h[TAKE], keep = 1 - h[TAKE], add = h[ADD];
    const int64_t room = room_of_a_part(x);
    for (int64_t j = from; j < to; ++j) {{
        double total = 0;
        for (int64_t q = 0; q < count; ++q) total += parts[q * room + SUMS + j];
        c[j] = lerp(c[j], stored(total / x->rows) + add, take, keep);
        inverses[j] = 1 / {sqrt}(c[j]);
    }}
}}

static inline Real inverse_of_row(const double *h, Real r, double mean) {{
    const Real least = h[LEAST_MEAN], at_least = (Real)mean < least ? least : (Real)mean;
    return 1 / {sqrt}(r / at_least);
}}

static double directions(const One *x, const double *h, int64_t from, int64_t to, double mean,
                         const double *restrict inverses) {{
    const int64_t n = x->columns;
    const Real most = h[MOST];
    double total = 0;
    for (int64_t row = from; row < to; ++row) {{
        const {g} *restrict gs = x->g + row * n;
        const Real of_row = inverse_of_row(h, x->r[row], mean);
        for (int64_t start = 0; start < n; start += BLOCK) {{
            const int64_t end = start + BLOCK < n ? start + BLOCK : n;
            Real u2 = 0;
#pragma omp simd reduction(+:u2)
            for (int64_t j = start; j < end; ++j) {{
                const Real inverse = of_row * (Real)inverses[j];
                u2 += square({read_g}(gs[j]) * (inverse > most ? most : inverse));
            }}
            if (u2 < INFINITY) total += u2;
            else for (int64_t j = start; j < end; ++j) {{
                const Real inverse = of_row * (Real)inverses[j];
                total += wide_square({read_g}(gs[j]) * (inverse > most ? most : inverse));
            }}
        }}
    }}
    return total;
}}

/* How a tensor moves: p = a p - (shrink p + w), where w is `step` times the direction, or the
   average of that. In one factor a - shrink, what is lost in rounding it would add up. */
typedef struct {{
    Real a, shrink, step, average, keep;
}} Move;

static inline void move(const One *x, int64_t i, Real u, Move by) {{
    const Real p = {read_p}(x->p[i]);
    Real w = by.step * u;
    if (x->m) {{
        w = x->m[i] = lerp(x->m[i], w, by.average, by.keep);
    }}
    x->p[i] = {write_p}(by.a * p - (by.shrink * p + w));
}}

static void move_vector(const One *x, const double *h, int64_t from, int64_t to, Move by) {{
    const Real most = h[MOST];
    for (int64_t i = from; i < to; ++i) {{
        const Real inverse = 1 / {sqrt}(x->r[i]);
        move(x, i, {read_g}(x->g[i]) * (inverse > most ? most : inverse), by);
    }}
}}

static void move_rows(const One *x, const double *h, int64_t from, int64_t to, double mean,
                      const double *restrict inverses, Move by) {{
    const int64_t n = x->columns;
    const Real most = h[MOST];
    for (int64_t row = from; row < to; ++row) {{
        const Real of_row = inverse_of_row(h, x->r[row], mean);
#pragma GCC ivdep
        for (int64_t j = 0; j < n; ++j) {{
            const Real inverse = of_row * (Real)inverses[j];
            const int64_t i = row * n + j;
            move(x, i, {read_g}(x->g[i]) * (inverse > most ? most : inverse), by);
        }}
    }}
}}

static double mean_of_rows(const One *x, int64_t from) {{
    double total = 0;
    for (int64_t row = from; row < from + x->rows; ++row) total += x->r[row];
    return total / x->rows;
}}

/* One of several matrices that lie behind each other, looked at whole. */
static void matrix_moment(const One *x, const double *h, int64_t k, double *part) {{
    double *columns = part + SUMS, *inverses = columns + x->columns;
    row_moments(x, h, k * x->rows, (k + 1) * x->rows, part, columns);
    column_moments(x, h, x->c + k * x->columns, part, 1, 0, x->columns, inverses);
    part[U2] += directions(x, h, k * x->rows, (k + 1) * x->rows, mean_of_rows(x, k * x->rows),
                           inverses);
}}

static double *inverses_of(const One *x, int64_t k, double *part) {{
    double *inverses = part + SUMS + x->columns;
    const Real *c = x->c + k * x->columns;
    for (int64_t j = 0; j < x->columns; ++j) inverses[j] = 1 / {sqrt}(c[j]);
    return inverses;
}}

static void move_matrix(const One *x, const double *h, int64_t k, double *part, Move by) {{
    const double *inverses = inverses_of(x, k, part);
    move_rows(x, h, k * x->rows, (k + 1) * x->rows, mean_of_rows(x, k * x->rows), inverses, by);
}}

/* Many matrices of a few elements, as convolutions have them: row means into `r`, column means into
   `c`. Inlined for the usual sizes, of which no loop within a matrix is left. */
static inline __attribute__((always_inline)) void tiny_moments(
    const One *x, const double *h, int64_t from, int64_t to, double *sums, const int64_t rows,
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
    const One *x, const double *h, int64_t from, int64_t to, Move by,
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

static int is_tiny(const One *x) {{ return x->rows * x->columns <= TINY; }}

/* Whether the squares of these gradients, and their sum, are finite. */
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

/* Of tiny matrices; those with numbers whose squares are none, one by one. */
static void tiny_matrix_moments(const One *x, const double *h, int64_t from, int64_t to,
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

static void matrix_moments(const One *x, const double *h, int64_t from, int64_t to, double *part) {{
    const int64_t some = CHUNK / (x->rows * x->columns) + 1;  /* they stay in the cache */
    if (is_tiny(x)) for (int64_t k = from; k < to; k += some)
        tiny_matrix_moments(x, h, k, k + some < to ? k + some : to, part);
    else for (int64_t k = from; k < to; ++k) matrix_moment(x, h, k, part);
}}

static void move_matrices(const One *x, const double *h, int64_t from, int64_t to, double *part,
                          Move by) {{
    const int64_t rows = x->rows, columns = x->columns;
    if (rows == 1 && columns == 1) move_tiny(x, h, from, to, by, 1, 1);
    else if (rows == 3 && columns == 3) move_tiny(x, h, from, to, by, 3, 3);
    else if (is_tiny(x)) move_tiny(x, h, from, to, by, rows, columns);
    else for (int64_t k = from; k < to; ++k) move_matrix(x, h, k, part, by);
}}

static inline void wait_for(int64_t team) {{
#ifdef _OPENMP
    if (team > 1) {{
#pragma omp barrier
    }}
#endif
}}

/* All of a tensor, by `team` threads, of which this one is `me`. */
static void one(const One *x, const double *h, double *scratch, int64_t me, int64_t team) {{
    const int64_t parts = count_parts(x), each = x->each, room = room_of_a_part(x);
    const int64_t begin = parts * me / team, end = parts * (me + 1) / team;
    const int whole = x->columns && x->batch == 1;
    double *inverses = scratch + SUMS + x->columns;  /* of a single matrix: those of part 0 */
    for (int64_t q = begin; q < end; ++q) {{
        double *part = scratch + q * room;
        const int64_t from = q * each, to = from + each < units(x) ? from + each : units(x);
        part[P2] = part[R1] = part[U2] = 0;
        if (!x->columns) vector_moment(x, h, from, to, part);
        else if (whole) row_moments(x, h, from, to, part, part + SUMS);
        else matrix_moments(x, h, from, to, part);
    }}
    wait_for(team);
    double mean = 0;
    if (whole) {{
        for (int64_t q = 0; q < parts; ++q) mean += scratch[q * room + R1];
        mean /= x->rows;
        column_moments(x, h, x->c, scratch, parts, x->columns * me / team,
                       x->columns * (me + 1) / team, inverses);
        wait_for(team);
        for (int64_t q = begin; q < end; ++q) {{
            const int64_t from = q * each, to = from + each < x->rows ? from + each : x->rows;
            scratch[q * room + U2] = directions(x, h, from, to, mean, inverses);
        }}
        wait_for(team);
    }}
    double p2 = 0, u2 = 0;
    for (int64_t q = 0; q < parts; ++q) {{
        p2 += scratch[q * room + P2];
        u2 += scratch[q * room + U2];
    }}
    const double numel = (double)x->batch * x->rows * (x->columns ? x->columns : 1);
    const double size = sqrt(p2 / numel), over = sqrt(u2 / numel) / h[D];
    const double scale = !h[SCALED] ? 1 : size > h[LEAST_SIZE] ? size : h[LEAST_SIZE];
    const double b = h[B] * scale, down = over > 1 || (over != over && h[SPREADS]) ? over : 1;
    const Move by = {{h[A], b * h[WEIGHT_DECAY], (h[MAXIMIZE] ? -b : b) / down, h[AVERAGE],
                     1 - h[AVERAGE]}};
    for (int64_t q = begin; q < end; ++q) {{
        double *part = scratch + q * room;
        const int64_t from = q * each, to = from + each < units(x) ? from + each : units(x);
        if (!x->columns) move_vector(x, h, from, to, by);
        else if (whole) move_rows(x, h, from, to, mean, inverses, by);
        else move_matrices(x, h, from, to, part, by);
    }}
    if (x->size && me == 0) *x->size = size;
    wait_for(team);
}}

static void all(const Shapes *call, const double *h, int64_t me, int64_t team) {{
    for (int64_t k = 0, small = 0; k < call->count; ++k)
        if (count_parts(call->tensors + k) == 1 && small++ % team == me)
            one(call->tensors + k, h, call->scratch + me * call->room, 0, 1);
    wait_for(team);
    for (int64_t k = 0; k < call->count; ++k)
        if (count_parts(call->tensors + k) > 1)
            one(call->tensors + k, h, call->scratch + team * call->room, me, team);
}}

void step(const Shapes *call, const double *h, int64_t t, int threads) {{
    (void)t;
#ifdef _OPENMP
    if (threads > 1) {{
#pragma omp parallel num_threads(threads)
        all(call, h, omp_get_thread_num(), omp_get_num_threads());
        return;
    }}
#endif
    all(call, h, 0, 1);
}}
"""

#: Sums of a part.
SUMS = 3


def generate_factored_c(p: str, g: str) -> str:
    """The C text for parameters and gradients of these formats."""
    real = "double" if p == "float64" else "float"
    body = BODY.format(
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

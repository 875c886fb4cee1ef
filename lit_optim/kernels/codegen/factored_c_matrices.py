"""The C functions that update factored second moments: of vectors and of single matrices.

The text is a template; `factored_c` fills it in.
"""

MATRICES = """
typedef {real} Real;

/* A tensor: `batch` matrices of `rows` x `columns`; or, with columns 0, `rows` numbers whose second
   moment is `r` itself. `m` and `size` may be NULL. A part of it is `each` rows or, if it consists
   of several matrices, `each` matrices. */
typedef struct {{
    {p} *p;
    const {g} *g;
    Real *r, *c, *m, *size;
    int64_t batch, rows, columns, each;
}} Item;

/* Each small tensor is updated by one thread, which has `thread_scratch` doubles for it; threads
   share the others part by part, in the scratch memory after that. What is added up, and in which
   order, depends on shapes alone: any number of threads gives the same bits. */
typedef struct {{
    int64_t count;
    const Item *tensors;
    double *scratch;
    int64_t thread_scratch;
}} Shapes;

enum {{ TINY = 64, P2 = 0, R1 = 1, U2 = 2, SUMS = {sums} }};
enum {{ {names}, NUMBERS }};

/* Squares of floats overflow from 1.8e19 on. Sums that are not finite are computed again in double
   precision, so that only these cost more. */
static inline Real square(Real x) {{ return x * x; }}

static inline double wide_square(double x) {{ return x * x; }}

/* A mean of squares as it is stored: at most the largest finite number, since the ratio of infinite
   means would be lost. */
static inline Real stored(double mean) {{
    return mean > {largest} && mean < INFINITY ? {largest} : (Real)mean;
}}

/* Like `lerp` in rules; keep is 1 - weight. */
static inline Real lerp(Real x, Real y, Real weight, Real keep) {{
    return weight < (Real)0.5 ? x + weight * (y - x) : y - keep * (y - x);
}}

static inline int64_t units(const Item *x) {{ return x->batch > 1 ? x->batch : x->rows; }}

static inline int64_t count_parts(const Item *x) {{ return (units(x) + x->each - 1) / x->each; }}

/* The scratch memory of a part: its sums, the sums of columns, and 1 / sqrt of their means. */
static inline int64_t part_size(const Item *x) {{ return SUMS + 2 * x->columns; }}

static void vector_moment(const Item *x, const double *h, int64_t from, int64_t to, double *sums) {{
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

/* Updates the row means of rows [from, to), and adds up the sums of columns. */
static void row_moments(const Item *x, const double *h, int64_t from, int64_t to, double *sums,
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

/* Updates the means of columns [from, to), and computes 1 / sqrt of them. */
static void column_moments(const Item *x, const double *h, Real *c, const double *parts,
                           int64_t count, int64_t from, int64_t to, double *inverses) {{
    const Real take = h[TAKE], keep = 1 - h[TAKE], add = h[ADD];
    const int64_t size_of_part = part_size(x);
    for (int64_t j = from; j < to; ++j) {{
        double total = 0;
        for (int64_t q = 0; q < count; ++q) total += parts[q * size_of_part + SUMS + j];
        c[j] = lerp(c[j], stored(total / x->rows) + add, take, keep);
        inverses[j] = 1 / {sqrt}(c[j]);
    }}
}}

static inline Real inverse_of_row(const double *h, Real r, double mean) {{
    const Real least = h[LEAST_MEAN], at_least = (Real)mean < least ? least : (Real)mean;
    return 1 / {sqrt}(r / at_least);
}}

static double directions(const Item *x, const double *h, int64_t from, int64_t to, double mean,
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

/* The update of a tensor: p = a p - (shrink p + w), where w is `step` times the direction, or the
   average of that. A single factor a - shrink would accumulate its rounding error. */
typedef struct {{
    Real a, shrink, step, average, keep;
}} Move;

static inline void move(const Item *x, int64_t i, Real u, Move by) {{
    const Real p = {read_p}(x->p[i]);
    Real w = by.step * u;
    if (x->m) {{
        w = x->m[i] = lerp(x->m[i], w, by.average, by.keep);
    }}
    x->p[i] = {write_p}(by.a * p - (by.shrink * p + w));
}}

static void move_vector(const Item *x, const double *h, int64_t from, int64_t to, Move by) {{
    const Real most = h[MOST];
    for (int64_t i = from; i < to; ++i) {{
        const Real inverse = 1 / {sqrt}(x->r[i]);
        move(x, i, {read_g}(x->g[i]) * (inverse > most ? most : inverse), by);
    }}
}}

static void move_rows(const Item *x, const double *h, int64_t from, int64_t to, double mean,
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

static double mean_of_rows(const Item *x, int64_t from) {{
    double total = 0;
    for (int64_t row = from; row < from + x->rows; ++row) total += x->r[row];
    return total / x->rows;
}}

/* Updates the second moment of one of several matrices. */
static void matrix_moment(const Item *x, const double *h, int64_t k, double *part) {{
    double *columns = part + SUMS, *inverses = columns + x->columns;
    row_moments(x, h, k * x->rows, (k + 1) * x->rows, part, columns);
    column_moments(x, h, x->c + k * x->columns, part, 1, 0, x->columns, inverses);
    part[U2] += directions(x, h, k * x->rows, (k + 1) * x->rows, mean_of_rows(x, k * x->rows),
                           inverses);
}}

static double *inverses_of(const Item *x, int64_t k, double *part) {{
    double *inverses = part + SUMS + x->columns;
    const Real *c = x->c + k * x->columns;
    for (int64_t j = 0; j < x->columns; ++j) inverses[j] = 1 / {sqrt}(c[j]);
    return inverses;
}}

static void move_matrix(const Item *x, const double *h, int64_t k, double *part, Move by) {{
    const double *inverses = inverses_of(x, k, part);
    move_rows(x, h, k * x->rows, (k + 1) * x->rows, mean_of_rows(x, k * x->rows), inverses, by);
}}
"""

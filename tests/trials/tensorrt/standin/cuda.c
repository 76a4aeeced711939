/* As much of libcuda as trtmut calls, over malloc: device memory is host memory whose ranges are remembered, everything happens at
   once, and nothing can be recorded as a graph. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
typedef int R;
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_SUPPORTED = 801 };

/* --- device memory --- */
typedef struct Range { char *at; size_t n; struct Range *next; } Range;
static Range *ranges;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

EXPORT int standin_is_device(const void *p) {
    int found = 0;
    pthread_mutex_lock(&lock);
    for (Range *r = ranges; r; r = r->next) found |= (char *)p >= r->at && (char *)p < r->at + r->n;
    pthread_mutex_unlock(&lock);
    return found;
}
EXPORT R cuMemAlloc_v2(void **p, size_t n) {
    Range *r = malloc(sizeof *r);
    if (!r || posix_memalign((void **)&r->at, 256, n ? n : 1)) { free(r); return NO_MEMORY; }
    /* What was never written must not look like a result. */
    memset(r->at, 0x7f, n);
    r->n = n;
    pthread_mutex_lock(&lock);
    r->next = ranges;
    ranges = r;
    pthread_mutex_unlock(&lock);
    *p = r->at;
    return OK;
}
EXPORT R cuMemFree_v2(void *p) {
    pthread_mutex_lock(&lock);
    Range **at = &ranges;
    while (*at && (*at)->at != p) at = &(*at)->next;
    Range *r = *at;
    if (r) *at = r->next;
    pthread_mutex_unlock(&lock);
    if (!r) return INVALID;
    free(r->at);
    free(r);
    return OK;
}
EXPORT R cuMemAllocAsync(void **p, size_t n, void *stream) { (void)stream; return cuMemAlloc_v2(p, n); }
EXPORT R cuMemFreeAsync(void *p, void *stream) { (void)stream; return cuMemFree_v2(p); }
EXPORT R cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { *free_bytes = *total = (size_t)8 << 30; return OK; }
static R copy(void *to, const void *from, size_t n, const void *device) {
    if (n && !standin_is_device(device)) return INVALID;
    memcpy(to, from, n);
    return OK;
}
EXPORT R cuMemcpyHtoD_v2(void *to, const void *from, size_t n) { return copy(to, from, n, to); }
EXPORT R cuMemcpyDtoH_v2(void *to, const void *from, size_t n) { return copy(to, from, n, from); }
EXPORT R cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t n, void *s) { (void)s; return copy(to, from, n, to); }
EXPORT R cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t n, void *s) { (void)s; return copy(to, from, n, from); }
EXPORT R cuMemsetD8_v2(void *p, unsigned char c, size_t n) { memset(p, c, n); return OK; }
EXPORT R cuMemsetD8Async(void *p, unsigned char c, size_t n, void *s) { (void)s; memset(p, c, n); return OK; }
EXPORT R cuMemHostAlloc(void **p, size_t n, unsigned flags) { (void)flags; return posix_memalign(p, 256, n ? n : 1) ? NO_MEMORY : OK; }
EXPORT R cuMemFreeHost(void *p) { free(p); return OK; }

/* --- device, context --- */
/* STANDIN_GPUS of them, the first of 8.9, the second its twin under another name, the third of 9.0. */
static int contexts[3];
static _Thread_local void *current;
static int gpus(void) { const char *n = getenv("STANDIN_GPUS"); int k = n ? atoi(n) : 1; return k < 0 ? 0 : k > 3 ? 3 : k; }
EXPORT int standin_device(void) { return current ? (int)((int *)current - contexts) : -1; }
EXPORT R cuInit(unsigned flags) { (void)flags; return gpus() ? OK : 100; }
EXPORT R cuDriverGetVersion(int *v) { *v = 13000; return OK; }
EXPORT R cuDeviceGetCount(int *n) { *n = gpus(); return OK; }
EXPORT R cuDeviceGet(int *d, int ordinal) { *d = ordinal; return ordinal >= gpus() ? INVALID : OK; }
EXPORT R cuDeviceGetName(char *to, int n, int d) {
    static const char *const names[3] = {"Stand-in GPU", "Stand-in GPU Ti", "Stand-in Large"};
    strncpy(to, names[d], n);
    return OK;
}
EXPORT R cuDeviceTotalMem_v2(size_t *n, int d) { *n = (size_t)8 << (30 + d); return OK; }
EXPORT R cuDeviceGetAttribute(int *to, int attribute, int d) {
    *to = attribute == 75 ? (d == 2 ? 9 : 8) : attribute == 76 ? (d == 2 ? 0 : 9) : 0; /* compute capability; no memory pools */
    return OK;
}
EXPORT R cuDevicePrimaryCtxRetain(void **c, int d) { *c = &contexts[d]; return OK; }
EXPORT R cuDevicePrimaryCtxRelease_v2(int d) { (void)d; return OK; }
EXPORT R cuCtxSetCurrent(void *c) { current = c; return OK; }
EXPORT R cuCtxGetCurrent(void **c) { *c = current; return OK; }
EXPORT R cuCtxSynchronize(void) { return OK; }

/* --- streams, events, graphs --- */
static R make(void **p) { return (*p = calloc(1, sizeof(struct timespec))) ? OK : NO_MEMORY; }
EXPORT R cuStreamCreate(void **s, unsigned flags) { (void)flags; return make(s); }
EXPORT R cuStreamDestroy_v2(void *s) { free(s); return OK; }
EXPORT R cuStreamSynchronize(void *s) { (void)s; return OK; }
EXPORT R cuStreamWaitEvent(void *s, void *e, unsigned flags) { (void)s; (void)e; (void)flags; return OK; }
EXPORT R cuStreamIsCapturing(void *s, int *status) { (void)s; *status = 0; return OK; }
EXPORT R cuStreamBeginCapture_v2(void *s, int mode) { (void)s; (void)mode; return NOT_SUPPORTED; }
EXPORT R cuStreamEndCapture(void *s, void **g) { (void)s; *g = NULL; return NOT_SUPPORTED; }
EXPORT R cuEventCreate(void **e, unsigned flags) { (void)flags; return make(e); }
EXPORT R cuEventDestroy_v2(void *e) { free(e); return OK; }
EXPORT R cuEventRecord(void *e, void *s) { (void)s; clock_gettime(CLOCK_MONOTONIC, e); return OK; }
EXPORT R cuEventQuery(void *e) { (void)e; return OK; }
EXPORT R cuEventSynchronize(void *e) { (void)e; return OK; }
EXPORT R cuEventElapsedTime(float *ms, const struct timespec *a, const struct timespec *b) {
    *ms = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) / 1e6f;
    return OK;
}
EXPORT R cuEventElapsedTime_v2(float *ms, const struct timespec *a, const struct timespec *b) { return cuEventElapsedTime(ms, a, b); }
EXPORT R cuGetErrorName(R e, const char **to) { (void)e; *to = "CUDA_ERROR_OF_THE_STAND_IN"; return OK; }
EXPORT R cuGetErrorString(R e, const char **to) { (void)e; *to = "an error of the stand-in"; return OK; }

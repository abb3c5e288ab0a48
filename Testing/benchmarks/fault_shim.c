/* Makes the n-th file operation below a folder fail, or kills the process there: preloaded before the C library.
 *
 * gcc -shared -fPIC -O1 -o fault_shim.so fault_shim.c -ldl;   LD_PRELOAD=.../fault_shim.so python ...
 * A process arms itself: fault_arm(folder, mode, n). fault_count() tells how many operations of the mode's kind there were.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, DISK_FULL, NO_PERMISSION, IO_ERROR, KILLED };          /* modes */
enum { READS = 1, WRITES = 2, NAMES = 4, CREATES = 8 };             /* kinds of operation */
static const int kinds[] = {0, WRITES | CREATES, NAMES, READS | WRITES | NAMES, READS | WRITES | NAMES};
static const int errors[] = {0, ENOSPC, EACCES, EIO, 0};

static char root[PATH_MAX];
static size_t root_length;
static int mode;
static long wanted, counted;
static char inside[65536]; /* descriptors that were opened below the folder */

void fault_arm(const char *folder, int new_mode, long n) {
  strncpy(root, folder, sizeof root - 1);
  root_length = strlen(root);
  wanted = n;
  counted = 0;
  memset(inside, 0, sizeof inside);
  mode = new_mode;
}

long fault_count(void) { return counted; }

/* 1 when this operation has to fail; errno is set then. A full disk stays full, the other faults strike once. */
static int strike(int kind) {
  if (!mode || !(kinds[mode] & kind)) return 0;
  long now = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
  if (now != wanted && !(mode == DISK_FULL && wanted > 0 && now > wanted)) return 0;
  if (mode == KILLED) raise(SIGKILL);
  errno = errors[mode];
  return 1;
}

static int below(const char *path) {
  return mode && path && path[0] == '/' && strncmp(path, root, root_length) == 0;
}

static int known(int fd) { return mode && fd >= 0 && fd < (int)sizeof inside && inside[fd]; }

static int below_at(int fd, const char *path) { return below(path) || (path && path[0] != '/' && known(fd)); }

#define REAL(result, name, ...) \
  static result (*real)(__VA_ARGS__); \
  if (!real) real = dlsym(RTLD_NEXT, name)

static int track(int fd, int is_inside) {
  if (fd >= 0 && fd < (int)sizeof inside) inside[fd] = is_inside;
  return fd;
}

static int open_kind(int flags) { return NAMES | (flags & (O_CREAT | O_TRUNC) ? CREATES : 0); }

static int mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; }

#define OPEN(function) \
  int function(const char *path, int flags, ...) { \
    REAL(int, #function, const char *, int, ...); \
    va_list rest; va_start(rest, flags); int permissions = mode_of(flags, rest); va_end(rest); \
    int ours = below(path); \
    if (ours && strike(open_kind(flags))) return -1; \
    return track(real(path, flags, permissions), ours); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(function) \
  int function(int at, const char *path, int flags, ...) { \
    REAL(int, #function, int, const char *, int, ...); \
    va_list rest; va_start(rest, flags); int permissions = mode_of(flags, rest); va_end(rest); \
    int ours = below_at(at, path); \
    if (ours && strike(open_kind(flags))) return -1; \
    return track(real(at, path, flags, permissions), ours); \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(function) \
  FILE *function(const char *path, const char *how) { \
    REAL(FILE *, #function, const char *, const char *); \
    int ours = below(path); \
    if (ours && strike(NAMES | (strchr(how, 'w') || strchr(how, 'a') ? CREATES : 0))) return NULL; \
    FILE *file = real(path, how); \
    if (file) track(fileno(file), ours); \
    return file; \
  }
FOPEN(fopen)
FOPEN(fopen64)

int close(int fd) {
  REAL(int, "close", int);
  if (fd >= 0 && fd < (int)sizeof inside) inside[fd] = 0;
  return real(fd);
}

#define MOVES(result, function, kind, parameters, names, types) \
  result function parameters { \
    REAL(result, #function, types); \
    if (known(fd) && strike(kind)) return -1; \
    return real names; \
  }
#define T(...) __VA_ARGS__
MOVES(ssize_t, write, WRITES, (int fd, const void *data, size_t n), (fd, data, n), T(int, const void *, size_t))
MOVES(ssize_t, writev, WRITES, (int fd, const struct iovec *v, int n), (fd, v, n), T(int, const struct iovec *, int))
MOVES(ssize_t, pwrite, WRITES, (int fd, const void *d, size_t n, off_t o), (fd, d, n, o),
      T(int, const void *, size_t, off_t))
MOVES(ssize_t, read, READS, (int fd, void *data, size_t n), (fd, data, n), T(int, void *, size_t))
MOVES(ssize_t, readv, READS, (int fd, const struct iovec *v, int n), (fd, v, n), T(int, const struct iovec *, int))
MOVES(ssize_t, pread, READS, (int fd, void *d, size_t n, off_t o), (fd, d, n, o), T(int, void *, size_t, off_t))
MOVES(int, fsync, WRITES, (int fd), (fd), T(int))
MOVES(int, ftruncate, WRITES, (int fd, off_t n), (fd, n), T(int, off_t))
MOVES(ssize_t, copy_file_range, WRITES, (int in, off_t *a, int fd, off_t *b, size_t n, unsigned f), (in, a, fd, b, n, f),
      T(int, off_t *, int, off_t *, size_t, unsigned))

#define NAMED(function, kind, parameters, names, types, test) \
  int function parameters { \
    REAL(int, #function, types); \
    if ((test) && strike(kind)) return -1; \
    return real names; \
  }
NAMED(rename, NAMES, (const char *a, const char *b), (a, b), T(const char *, const char *), below(a) || below(b))
NAMED(renameat, NAMES, (int x, const char *a, int y, const char *b), (x, a, y, b), T(int, const char *, int, const char *),
      below_at(x, a) || below_at(y, b))
NAMED(mkdir, NAMES | CREATES, (const char *a, mode_t m), (a, m), T(const char *, mode_t), below(a))
NAMED(mkdirat, NAMES | CREATES, (int x, const char *a, mode_t m), (x, a, m), T(int, const char *, mode_t), below_at(x, a))
NAMED(unlink, NAMES, (const char *a), (a), T(const char *), below(a))
NAMED(unlinkat, NAMES, (int x, const char *a, int f), (x, a, f), T(int, const char *, int), below_at(x, a))
NAMED(rmdir, NAMES, (const char *a), (a), T(const char *), below(a))

DIR *opendir(const char *path) {
  REAL(DIR *, "opendir", const char *);
  if (below(path) && strike(NAMES)) return NULL;
  return real(path);
}

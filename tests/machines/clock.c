/* A clock that is ahead: real time, and waits until a moment of it, by CLOCK_AHEAD seconds.

   Built and preloaded by network.py. Monotonic time is left alone, so sleeps last as long as ever. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t ahead;

__attribute__((constructor)) static void read_environment(void) {
  const char *text = getenv("CLOCK_AHEAD");
  ahead = text ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += ahead;
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec found;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &found);
  now->tv_sec = found.tv_sec;
  now->tv_usec = found.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  if (now)
    *now = found.tv_sec;
  return found.tv_sec;
}

/* A moment of monotonic time is less than what this machine has been up for. */
static struct timespec as_the_kernel_has_it(const struct timespec *moment) {
  struct timespec found = *moment;
  if (found.tv_sec > 1000000000)
    found.tv_sec -= ahead;
  return found;
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *moment) {
  static int (*wait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
  struct timespec real = as_the_kernel_has_it(moment);
  if (!wait)
    wait = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
  return wait(condition, mutex, clock, &real);
}

/* Abseil, in Ray's processes, asks the kernel to wait until a moment of real time. */
long syscall(long number, ...) {
  static long (*call)(long, ...);
  struct timespec real;
  long given[6];
  va_list list;
  va_start(list, number);
  for (int i = 0; i < 6; i++)
    given[i] = va_arg(list, long);
  va_end(list);
  if (!call)
    call = dlsym(RTLD_NEXT, "syscall");
  if (number == SYS_futex && (given[1] & FUTEX_CLOCK_REALTIME) && given[3]) {
    real = as_the_kernel_has_it((const struct timespec *)given[3]);
    given[3] = (long)&real;
  }
  return call(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict moment) {
  static int (*wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  struct timespec real = as_the_kernel_has_it(moment);
  if (!wait)
    wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!wait)
    wait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  return wait(condition, mutex, &real);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict moment) {
  static int (*wait)(sem_t *, const struct timespec *);
  struct timespec real = as_the_kernel_has_it(moment);
  if (!wait)
    wait = dlsym(RTLD_NEXT, "sem_timedwait");
  return wait(semaphore, &real);
}

/* The work that `cleave compare` measures in user mode: the same source, compiled in the same way,
 * in the program for the host's processor and in the guest for ring 3. */
#ifndef CLI_COMPARE_LOADS_H
#define CLI_COMPARE_LOADS_H

#include <stdint.h>

/* Where the guest's linker puts what ring 3 may touch. */
#ifdef COMPARE_GUEST
#define USER_CODE __attribute__((section(".user.text")))
#else
#define USER_CODE
#endif

#define LOADS_BUFFER 0x100000 /* bytes of memory that a load is given, zeroed before the first */
#define LOADS_PAGES  512      /* that the load of page faults touches before it gives them back */

/* Each does n operations and returns what depends on all of their results. buf has LOADS_BUFFER
 * bytes. Any thread. */
uint64_t load_integer(void *buf, uint64_t n);
uint64_t load_sort(void *buf, uint64_t n); /* n elements, in arrays of LOADS_BUFFER / 16 */
uint64_t load_hash(void *buf, uint64_t n);

#endif

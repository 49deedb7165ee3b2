/* The translator, beside cpu/engine.h. */
#ifndef CPU_DBT_DBT_H
#define CPU_DBT_DBT_H

#include <stdbool.h>

/* Do the host's processor and kernel have what translated code needs (BMI2, FSGSBASE)? */
bool dbt_is_possible(void);

#endif

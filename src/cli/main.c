#include <stdio.h>

int main(void)
{
	puts("cleave");
	return 0;
}

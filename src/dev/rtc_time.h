/* Conversion between seconds since 1970 and the time registers of an MC146818. Pure functions. */
#ifndef DEV_RTC_TIME_H
#define DEV_RTC_TIME_H

#include "src/base/types.h"

#define RTC_SECONDS	  0x00
#define RTC_SECONDS_ALARM 0x01
#define RTC_MINUTES	  0x02
#define RTC_MINUTES_ALARM 0x03
#define RTC_HOURS	  0x04
#define RTC_HOURS_ALARM	  0x05
#define RTC_WEEKDAY	  0x06 /* Sunday is 1 */
#define RTC_DAY		  0x07
#define RTC_MONTH	  0x08
#define RTC_YEAR	  0x09
#define RTC_CENTURY	  0x32

/* Bits of register B that say how numbers are written. */
#define RTC_B_24_HOURS 0x02
#define RTC_B_BINARY   0x04

/* cmos: the registers by number; mode: register B. */
void rtc_time_store(uint8_t *cmos, uint8_t mode, int64_t seconds);
int64_t rtc_time_load(const uint8_t *cmos, uint8_t mode);
/* Whether the alarm registers match a time; 0xc0 and above match everything. */
bool rtc_time_alarm(const uint8_t *cmos, uint8_t mode, int64_t seconds);

#endif

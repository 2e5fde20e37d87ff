package mesh;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.netflix.eureka.server.EnableEurekaServer;
import org.springframework.context.annotation.Bean;
import org.springframework.security.config.Customizer;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.web.SecurityFilterChain;

/** The server of the tests; all that differs between them is given as properties on the command line. */
@SpringBootApplication
@EnableEurekaServer
public class Eureka {
    public static void main(String[] arguments) {
        SpringApplication.run(Eureka.class, arguments);
    }

    /** Basic authentication, with the user and password of spring.security.user; no tokens of forms for programs. */
    @Bean
    SecurityFilterChain chain(HttpSecurity http) throws Exception {
        return http.csrf(csrf -> csrf.disable())
            .authorizeHttpRequests(requests -> requests.anyRequest().authenticated())
            .httpBasic(Customizer.withDefaults())
            .build();
    }
}
